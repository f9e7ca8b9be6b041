package drill

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// lockRound is a round that runs: a set of holders, and a fault or two.
type lockRound struct {
	plannedLock
	crew[holderEvent]
	d        *locking
	dir      string
	names    []string // those that are held alone, one that can be shared, one with permits
	resource string   // address
	guarded  *child
	holders  []*holderProcess
	windows  []window
	calm     time.Time // leases from before it are no holder's that is stopped or killed
}

// lasting is the name that holders of every round want; others are a round's own.
const lasting = "lasting"

// alone is how many of a round's names are only held alone.
const alone = 3

const lockAfter = 800 * time.Millisecond // after the faults

func (d *locking) round(ctx context.Context, n int) (err error) {
	p := d.rounds[n]
	d.progress.say("round %d of %d: %s, %s", n+1, d.Rounds, p.holder, p.store.name)
	d.figures.Dealt = append(d.figures.Dealt, DealtLock{p.holder, p.store.name, p.dice})
	r := &lockRound{plannedLock: p, d: d, dir: filepath.Join(d.place.dir, fmt.Sprintf("round-%d", n+1)),
		names: []string{fmt.Sprintf("r%d-a", n+1), fmt.Sprintf("r%d-b", n+1), lasting, fmt.Sprintf("r%d-rw", n+1), fmt.Sprintf("r%d-pool", n+1)}}
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	defer r.abandon()
	if err := r.begin(); err != nil {
		return err
	}
	if !r.until(ctx, func() bool { return r.idle(time.Time{}) == "" }) {
		d.waiting.add("round %d: before any fault, %s", n+1, r.idle(time.Time{}))
	}
	d.progress.say("all holders are at it")
	if err := r.storm(ctx, n); err != nil {
		return err
	}
	over := time.Now()
	d.progress.say("over; the others go on")
	pauseFor(ctx, lockAfter)
	if !r.until(ctx, func() bool { return r.idle(over) == "" }) {
		d.waiting.add("round %d, %s and %s: since they were over, %s", n+1, p.holder, p.store.name, r.idle(over))
	}
	unclean, err := r.end(ctx)
	if err != nil || ctx.Err() != nil {
		return err
	}
	for _, text := range unclean {
		d.told.add("round %d: %s", n+1, text)
	}
	if err := r.look(ctx, n); err != nil {
		return err
	}
	if d.harm() == 0 {
		return os.RemoveAll(r.dir)
	}
	return nil
}

// begin starts the resources and the holders.
func (r *lockRound) begin() (err error) {
	ready := filepath.Join(r.dir, "ready")
	r.guarded, err = r.d.nursery.start(r.d.binary, filepath.Join(r.dir, "guarded.log"), "drill", "guarded",
		"--db", r.d.place.db, "--dir", r.d.files(), "--ready-file", ready)
	if err != nil {
		return err
	}
	if r.resource, err = r.guarded.ready(ready, readyWithin); err != nil {
		return err
	}
	for i := range r.d.Holders {
		h, err := r.startHolder(i)
		if err != nil {
			return err
		}
		r.holders, r.players = append(r.holders, h), append(r.players, &h.player)
	}
	return nil
}

// storm lets what was dealt happen, to holders and to the store at the same time; when a clock jumps, one after the
// other: a lease of one who is dead would last until the clock says so.
func (r *lockRound) storm(ctx context.Context, n int) error {
	var toHolder, toStore string
	var errHolder, errStore error
	w := window{fault: r.store.name, from: time.Now(), forgets: r.store.forgets, jumps: r.store.jumps}
	var both sync.WaitGroup
	both.Go(func() {
		toStore, errStore = r.store.hit(ctx, r, r.rng())
		w.to = time.Now()
	})
	if r.store.jumps {
		both.Wait()
		r.calm = w.to
	}
	both.Go(func() { toHolder, errHolder = r.harm(ctx) })
	both.Wait()
	r.windows = append(r.windows, w)
	for _, err := range []error{ctx.Err(), errHolder, errStore} {
		if err != nil {
			return err
		}
	}
	if toStore == "" {
		r.d.figures.Faults[r.store.name]++
	} else {
		r.d.happened.add("round %d: %s did not happen: %s", n+1, r.store.name, toStore)
	}
	if toHolder != "" {
		r.d.happened.add("round %d: %s did not happen: %s", n+1, r.plannedLock.holder, toHolder)
	}
	return nil
}

// end tells the holders to end, then the resources, and says what was not clean.
func (r *lockRound) end(ctx context.Context) (unclean []string, err error) {
	unclean = r.crew.end("holder")
	if err := r.guarded.stop(stopWithin); err != nil {
		unclean = append(unclean, fmt.Sprintf("the guarded resources did not end cleanly: %v\n%s", err, tail(r.guarded.log)))
	}
	return unclean, r.catchUp()
}

// abandon ends what is left without waiting.
func (r *lockRound) abandon() {
	r.crew.abandon()
	if r.guarded != nil {
		r.guarded.kill()
	}
}

// idle says which live holder, or which name, has had no lease since a time.
func (r *lockRound) idle(since time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	had := map[string]bool{}
	for _, h := range r.holders {
		got := h.killed
		for _, e := range h.events {
			if e.Kind == "got" && e.At > since.UnixNano() {
				had[e.Name], got = true, true
			}
		}
		if !got {
			return fmt.Sprintf("holder %d has had no lease", h.index)
		}
	}
	for _, name := range r.names {
		if !had[name] {
			return fmt.Sprintf("nobody has had %s", name)
		}
	}
	return ""
}

// others counts leases of a name that others have had with larger tokens.
func (r *lockRound) others(but int, name string, token int64) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.holders {
		if h.index == but {
			continue
		}
		for _, e := range h.events {
			if e.Kind == "got" && e.Name == name && e.Token > token {
				n++
			}
		}
	}
	return n
}

// leases counts all leases that holders have had.
func (r *lockRound) leases() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.holders {
		for _, e := range h.events {
			if e.Kind == "got" {
				n++
			}
		}
	}
	return n
}

// find looks for a live holder that is about something just then.
func (r *lockRound) find(ctx context.Context, fits func(holding) bool) (who *holderProcess, s holding) {
	r.until(ctx, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, i := range rand.Perm(len(r.holders)) {
			if h := r.holders[i]; !h.killed {
				if s = h.last(); fits(s) {
					who = h
					return true
				}
			}
		}
		return false
	})
	return who, s
}
