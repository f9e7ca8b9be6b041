package drill

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// callerEvent is a line of a caller's journal.
type callerEvent struct {
	At      int64  `json:"at"` // ns since 1970: it was answered
	Kind    string `json:"kind"`
	Op      int64  `json:"op"`
	Rule    string `json:"rule"`
	Key     string `json:"key"`
	Units   int64  `json:"units"`
	Sent    int64  `json:"sent"` // ns since 1970
	Took    int64  `json:"took"` // ns
	Allowed bool   `json:"allowed"`
	Source  string `json:"source"`
	Wait    int64  `json:"wait"` // ns
	Left    int64  `json:"left"`
	Live    int    `json:"live"`
	For     int64  `json:"for"` // ns
	Err     string `json:"err"`
}

// decided says who decided: the store, or the rules' policies without it; otherwise nobody did, as far as is known.
func (e callerEvent) byStore() bool  { return e.Err == "" && e.Source == "store" }
func (e callerEvent) byPolicy() bool { return e.Err == "" && e.Source == "policy" }

// decision says whether the line is an answer to a question for units.
func (e callerEvent) decision() bool {
	return e.Kind == "take" || e.Kind == "slot" || e.Kind == "alone" || e.Kind == "pair"
}

type callerProcess = player[callerEvent]

// limitRound is a round that runs: a set of callers, and a fault or two.
type limitRound struct {
	plannedLimit
	crew[callerEvent]
	d      *limiting
	where  string
	key    string
	dir    string
	began  time.Time // everybody was at it
	window window    // of the store's fault
	freed  time.Time // a caller with a slot was killed, or stopped
	hit    int       // which one
}

const (
	callersCalm     = 500 * time.Millisecond // before the faults
	callersAfter    = 700 * time.Millisecond // after them
	callersPatience = 8 * time.Second        // for what has to happen
	shortestGap     = 2 * time.Millisecond   // between a caller's calls; the next one's are longer
)

func (d *limiting) round(ctx context.Context, n int) (err error) {
	p := d.rounds[n]
	d.progress.say("round %d of %d: %s, %s", n+1, d.Rounds, p.caller, p.store.name)
	d.figures.Dealt = append(d.figures.Dealt, DealtLimit{p.caller, p.store.name, p.dice})
	r := &limitRound{plannedLimit: p, d: d, where: fmt.Sprintf("round %d", n+1), key: fmt.Sprintf("r%d", n+1), hit: -1,
		dir: filepath.Join(d.place.dir, fmt.Sprintf("round-%d", n+1))}
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	defer r.abandon()
	for i := range d.Callers {
		if err := r.start(i, fmt.Sprintf("caller-%d", i)); err != nil {
			return err
		}
	}
	if !r.within(ctx, callersPatience, func() bool { return r.idle(time.Time{}, true) == "" }) {
		d.goes.add("%s: before any fault, %s", r.where, r.idle(time.Time{}, true))
	}
	r.began = time.Now()
	pauseFor(ctx, callersCalm)
	if err := r.storm(ctx); err != nil {
		return err
	}
	over := time.Now()
	pauseFor(ctx, callersAfter)
	if !r.within(ctx, callersPatience, func() bool { return r.idle(over, false) == "" }) {
		d.goes.add("%s, %s and %s: since they were over, %s", r.where, p.caller, p.store.name, r.idle(over, false))
	}
	if r.hit >= 0 && !r.within(ctx, callersPatience, r.full) {
		d.back.add("%s, %s: after its lease no more than %d of %d slots were ever had at once", r.where, p.caller, r.mostSince(), ruleNamed(ruleSlots).limit)
	}
	for _, text := range r.end("caller") {
		d.answers.add("%s: %s", r.where, text)
	}
	if err := r.catchUp(); err != nil || ctx.Err() != nil {
		return err
	}
	if err := r.look(ctx); err != nil {
		return err
	}
	if d.harm() == 0 {
		return os.RemoveAll(r.dir)
	}
	return nil
}

// start runs a caller, whose calls are rarer the larger its number is.
func (r *limitRound) start(i int, name string, more ...string) error {
	p := &callerProcess{index: i, log: filepath.Join(r.dir, name+".jsonl")}
	args := append([]string{"drill", "caller", "--rules", r.d.rulesFile(), "--journal", p.log, "--seed", fmt.Sprint(r.dice), "--who", fmt.Sprint(i),
		"--processes", fmt.Sprint(r.d.Callers), "--key", r.key, "--gap", (shortestGap << min(i, 5)).String(), "--timeout", r.d.timeout().String()}, more...)
	var err error
	p.child, err = r.d.nursery.run(exec.Command(r.d.binary, append(args, r.d.engine.flags(i)...)...), filepath.Join(r.dir, name+".log"))
	if err == nil {
		r.players = append(r.players, p)
	}
	return err
}

// storm lets what was dealt happen, to a caller and to the store at the same time.
func (r *limitRound) storm(ctx context.Context) error {
	var toCaller, toStore string
	var errCaller, errStore error
	r.window = window{fault: r.store.name, from: time.Now(), forgets: r.store.forgets, shifts: r.store.shifts}
	var both sync.WaitGroup
	both.Go(func() {
		toStore, errStore = r.store.hit(ctx, r.held, r.rng())
		r.window.to = time.Now()
	})
	both.Go(func() { toCaller, errCaller = r.harm(ctx) })
	both.Wait()
	for _, err := range []error{ctx.Err(), errCaller, errStore} {
		if err != nil {
			return err
		}
	}
	if toStore == "" {
		r.d.figures.Faults[r.store.name]++
	} else {
		r.d.happened.add("%s: %s did not happen: %s", r.where, r.store.name, toStore)
	}
	if toCaller != "" {
		r.d.happened.add("%s: %s did not happen: %s", r.where, r.caller, toCaller)
	}
	return nil
}

// harm kills or stops a caller that holds a slot.
func (r *limitRound) harm(ctx context.Context) (happened string, err error) {
	fresh := func(p *callerProcess) bool {
		s := r.holds(p)
		return s > 0 && time.Since(time.Unix(0, s)) < slotLease/2
	}
	p, err := r.halt(ctx, func() (found *callerProcess) {
		r.within(ctx, callersPatience, func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, p := range r.players {
				if fresh(p) {
					found = p
				}
			}
			return found != nil
		})
		return found
	}, fresh)
	if err != nil || p == nil {
		return "nobody held a slot", err
	}
	r.hit, r.freed = p.index, time.Now()
	if r.plannedLimit.caller == killCaller {
		if !r.kill(p) {
			return "it had ended before", nil
		}
		r.d.figures.Killed++
		return "", nil
	}
	pauseFor(ctx, r.late)
	if err := p.child.resume(); err != nil {
		return "", fmt.Errorf("drill: %w", err)
	}
	r.d.figures.Paused++
	return "", nil
}

// holds is since when a caller has the slot that it was given last, 0 if it has none.
func (r *limitRound) holds(p *callerProcess) int64 {
	freed := map[int64]bool{}
	for i := len(p.events) - 1; i >= 0 && len(p.events)-i < 200; i-- {
		switch e := p.events[i]; {
		case e.Kind == "free":
			freed[e.Op] = true
		case e.Kind == "slot" && e.Allowed && e.byStore() && !freed[e.Op]:
			return e.At
		}
	}
	return 0
}

// idle says which live caller, or which rule, has not been decided by the store since a time.
func (r *limitRound) idle(since time.Time, first bool) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	had := map[string]bool{}
	for _, p := range r.players {
		decided, live := p.killed, 0
		for i := len(p.events) - 1; i >= 0 && p.events[i].At > since.UnixNano(); i-- {
			e := p.events[i]
			live = max(live, e.Live)
			if e.decision() && e.byStore() && e.Sent > since.UnixNano() {
				decided = true
				had[e.Rule] = had[e.Rule] || e.Allowed
			}
		}
		if !decided {
			return fmt.Sprintf("the store has decided nothing for caller %d", p.index)
		}
		if first && r.d.direct() && live < r.d.Callers {
			return fmt.Sprintf("caller %d knows of %d processes", p.index, live)
		}
	}
	for _, rule := range limitRules {
		if paced := rule.window > 0 && rule.window < longWindow || rule.lease > 0; paced && !had[rule.name] {
			return fmt.Sprintf("%s has admitted nothing", rule.name)
		}
	}
	return ""
}

// mostSince is how many slots were had at once by those that live, after the lease of a slot that was not given back.
func (r *limitRound) mostSince() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var others []slot
	for _, s := range heldSlots(r.players) {
		if s.who != r.hit || r.plannedLimit.caller == pauseCaller {
			others = append(others, s)
		}
	}
	after := r.freed.Add(slotLease).UnixNano()
	return mostHeld(others, func(at int64) bool { return at > after })
}

func (r *limitRound) full() bool { return int64(r.mostSince()) >= ruleNamed(ruleSlots).limit }

// heldSlots are the slots that the store gave.
func heldSlots(players []*callerProcess) (all []slot) {
	for _, p := range players {
		at := map[int64]int{}
		for _, e := range p.events {
			switch {
			case e.Kind == "slot" && e.Allowed && e.byStore():
				at[e.Op] = len(all)
				all = append(all, slot{e.At, e.Sent + int64(slotLease), p.index})
			case e.Kind == "free":
				if i, ok := at[e.Op]; ok {
					all[i].to = min(all[i].to, e.At)
				}
			}
		}
	}
	return all
}
