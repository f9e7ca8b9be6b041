// Package holder is the programs that the lock drill lets loose: holders, which lease names, write to
// what the names guard, and give them back; and the guarded resources, a table and files.
//
// Promised: a holder writes down each step before it takes it and each answer after it has it, one line
// a write, so that what it knew can be told from outside whenever it ends. It judges nothing. Which
// names it wants, for how long and how carefully, its seed decides.
//
// Not promised: good manners. A careless holder writes without another look at its lease, which is what
// a program does that was paused between the look and the write.
package holder

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/store"
)

// Options of Run.
type Options struct {
	Store    string   // URL of the store that the locks are in; empty: API
	API      string   // http://HOST of a server with /v1/locks
	Key      string   // for the API
	Resource string   // http://HOST of what is guarded
	Names    []string // wanted alone
	Shared   string   // a name that is wanted alone or shared
	Pool     string   // a name of which permits are wanted
	TTL      time.Duration
	Log      string // file
	Seed     uint64
	Who      int
}

// What the seed decides, and its bounds.
const (
	shortHold   = 5 * time.Millisecond // and as much again, four times
	lingerOneIn = 32
	carelessOf  = 4                       // all but one of so many
	longHold    = 1000 * time.Millisecond // and up to half as much more
	shortWait   = 500 * time.Millisecond
	longWait    = 3 * time.Second
	maxHold     = 5 * time.Second
	othersOneIn = 4 // turns are about Shared or Pool
	aloneOneIn  = 4 // wishes for Shared
	permits     = 3 // of Pool
	releaseTime = 2 * time.Second
)

// locks is where names are leased: a library, or an API.
type locks interface {
	acquire(ctx context.Context, name string, r lock.Request) (lease, error)
	close(ctx context.Context) error
}

// lease is a name that is held.
type lease interface {
	Token() int64
	Owner() string
	Context() context.Context
	Release(ctx context.Context) error
}

// library leases through package lock.
type library struct {
	store *store.Store
	locks *lock.Locker
}

func openLibrary(ctx context.Context, o Options) (locks, error) {
	s, err := store.Open(ctx, o.Store, store.Options{})
	if err != nil {
		return nil, err
	}
	l, err := lock.New(s, lock.Options{TTL: o.TTL, MaxHold: maxHold, Who: fmt.Sprint("holder ", o.Who)})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &library{s, l}, nil
}

func (l *library) acquire(ctx context.Context, name string, r lock.Request) (lease, error) {
	return l.locks.Acquire(ctx, name, r)
}

func (l *library) close(ctx context.Context) error {
	return errors.Join(l.locks.Close(ctx), l.store.Close())
}

// Run leases and writes until ctx is done; then it ends what it has begun.
func Run(ctx context.Context, o Options) (err error) {
	log, err := openJournal(o.Log)
	if err != nil {
		return err
	}
	var l locks
	if o.API == "" {
		l, err = openLibrary(ctx, o)
	} else {
		l, err = openAPI(o)
	}
	if err != nil {
		return errors.Join(err, log.Close())
	}
	h := &holder{Options: o, locks: l, log: log, dice: rand.New(rand.NewPCG(o.Seed, uint64(o.Who))), resource: newResource(o.Resource)}
	var watch sync.WaitGroup
	watching, stop := context.WithCancel(context.Background())
	watch.Go(func() { log.watchStalls(watching) })
	for ctx.Err() == nil {
		h.turn(ctx)
	}
	stop()
	watch.Wait()
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	h.resource.close()
	if err := l.close(clean); err != nil {
		log.write(Event{Kind: "leftover", Err: err.Error()}) // a store that is gone is no fault of this program
	}
	return log.Close()
}

// holder is one that runs.
type holder struct {
	Options
	locks    locks
	log      journal
	dice     *rand.Rand
	resource *resource
	op       int
}

// plan is what the seed decides of a turn.
type plan struct {
	name             string
	wish             lock.Request
	guarded          bool // writes follow
	within, hold     time.Duration
	careless, linger bool
}

func (h *holder) plan() plan {
	p := plan{name: h.Names[h.dice.IntN(len(h.Names))], guarded: true}
	p.within = shortWait + time.Duration(h.dice.Int64N(int64(longWait-shortWait)))
	p.hold = shortHold + time.Duration(h.dice.Int64N(int64(4*shortHold)))
	p.careless = h.dice.IntN(carelessOf) > 0
	if h.dice.IntN(lingerOneIn) == 0 {
		p.linger, p.careless = true, false
		p.hold = longHold + time.Duration(h.dice.Int64N(int64(longHold/2)))
	}
	if h.dice.IntN(othersOneIn) == 0 {
		p.share(h)
	}
	return p
}

// share turns a plan into one for a name that several may have. What it guards would have to take smaller
// tokens after larger ones, so nothing is written.
func (p *plan) share(h *holder) {
	switch {
	case h.dice.IntN(2) == 0 && h.Shared != "":
		p.name, p.wish.Shared = h.Shared, h.dice.IntN(aloneOneIn) > 0
	case h.Pool != "":
		p.name, p.wish.Permits, p.wish.Of = h.Pool, 1+h.dice.Int64N(permits), permits
	default:
		return
	}
	p.guarded, p.careless, p.linger = false, false, false
	p.hold = 4*shortHold + time.Duration(h.dice.Int64N(int64(8*shortHold))) // so that others come meanwhile
}

// turn is one lease from the question to the end.
func (h *holder) turn(ctx context.Context) {
	p := h.plan()
	h.op++
	op := h.op
	h.log.write(Event{Kind: "ask", Op: op, Name: p.name, For: p.within.Nanoseconds(), Shared: p.wish.Shared, Permits: p.wish.Permits, Of: p.wish.Of})
	within, cancel := context.WithTimeout(ctx, p.within)
	defer cancel()
	got, err := h.locks.acquire(within, p.name, p.wish)
	if err != nil {
		h.log.write(Event{Kind: "failed", Op: op, Err: reason(ctx, within, err)})
		pause(ctx, 10*time.Millisecond)
		return
	}
	h.log.write(Event{Kind: "got", Op: op, Name: p.name, Token: got.Token(), Owner: got.Owner(), Careless: p.careless, Linger: p.linger})
	told := make(chan struct{})
	stopped := context.AfterFunc(got.Context(), func() {
		defer close(told)
		h.log.write(Event{Kind: "lost", Op: op, Err: context.Cause(got.Context()).Error()})
	})
	h.work(ctx, op, p, got)
	if !stopped() {
		<-told
	}
	h.log.write(Event{Kind: "release", Op: op})
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	err = got.Release(clean)
	e := Event{Kind: "released", Op: op}
	switch {
	case errors.Is(err, lock.ErrLost):
		e.Err = "lost"
	case err != nil:
		e.Err = err.Error()
	}
	h.log.write(e)
}

// work holds, and then writes; unless it is careful and its lease has ended.
func (h *holder) work(ctx context.Context, op int, p plan, got lease) {
	if p.careless {
		pause(context.WithoutCancel(ctx), p.hold)
	} else {
		pause(got.Context(), p.hold)
		if got.Context().Err() != nil {
			return
		}
	}
	if !p.guarded {
		return
	}
	for _, to := range []string{"rows", "files"} {
		h.log.write(Event{Kind: "write", Op: op, To: to})
		status, err := h.resource.write(to, p.name, got.Token(), got.Owner(), fmt.Sprintf("%d-%d", h.Who, op))
		e := Event{Kind: "wrote", Op: op, To: to, Status: status}
		if err != nil {
			e.Err = err.Error()
		}
		h.log.write(e)
	}
}

// reason is why a lease was not had, in a word where the drill knows the word.
func reason(ctx, within context.Context, err error) string {
	switch {
	case ctx.Err() != nil:
		return "ended"
	case within.Err() != nil:
		return "deadline"
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrOutcomeUnknown):
		return "store: " + err.Error()
	}
	return err.Error()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
