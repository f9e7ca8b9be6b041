package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

const (
	// alive is how long a waiter that does not look again counts as alive.
	alive = 3 * time.Second
	// lookAgain is how often a waiter looks, more or less: what a lost wake-up costs at most.
	lookAgain = alive / 3
	// giveUp bounds how long a store that is gone is waited for.
	giveUp = alive
	// cleanUp bounds a release on behalf of somebody who has gone.
	cleanUp = time.Second
)

// Acquire leases a name and waits for it as long as ctx lasts, in line with the others. Errors:
// ErrInvalid, ErrMode, ErrTooMany, ErrClosed, ctx's, and those of package store when the store has
// been gone for 3 s.
func (l *Locker) Acquire(ctx context.Context, name string, r Request) (*Lease, error) {
	return l.acquire(ctx, name, rand.Text(), r, endless)
}

// TryAcquire leases a name if nobody else has it or waits for it. Errors: ErrHeld, ErrLost when the
// lease was over before the answer was there, and those of Acquire.
func (l *Locker) TryAcquire(ctx context.Context, name string, r Request) (*Lease, error) {
	return l.acquire(ctx, name, rand.Text(), r, 0)
}

func (l *Locker) acquire(ctx context.Context, name, owner string, r Request, wait time.Duration) (*Lease, error) {
	r, err := l.check(name, r)
	if err != nil {
		return nil, err
	}
	if l.isClosed() {
		return nil, ErrClosed
	}
	a := &attempt{l: l, name: name, r: r, owner: owner, at: placeOf(name), patience: wait}
	got, err := a.run(ctx)
	var lease *Lease
	if err == nil {
		lease, err = l.hold(a, got)
	}
	if err == nil && l.opts.Fence != nil {
		err = lease.fence(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("lock: %q: %w", name, err)
	}
	return lease, nil
}

func (l *Locker) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// attempt is one request on its way.
type attempt struct {
	l     *Locker
	name  string
	r     Request
	owner string
	at    place
	sent  time.Time // when the last question left that was answered

	patience  time.Duration // how long to stand in line; 0: not at all, less: as long as the context lasts
	again     bool          // the owner may be asked for again: what it was given stays, though nobody heard of it
	keepPlace bool          // after that, its place in line stays for 3 s
}

// grant is what the engine has given: a token, and so much time from when it was last asked.
type grant struct {
	token int64
	left  time.Duration
}

// run asks, and waits in line if it is to.
func (a *attempt) run(ctx context.Context) (grant, error) {
	if a.patience != 0 {
		return a.wait(ctx)
	}
	out, err := a.ask(ctx, false)
	if err != nil {
		a.forget(err)
		return grant{}, err
	}
	got, err := settled(out)
	if err == nil && a.late(got) {
		return grant{}, fmt.Errorf("%w: its time was over before the answer was there", ErrLost)
	}
	return got, err
}

// late says whether what was given was over before it was known here: somebody else may have it.
func (a *attempt) late(got grant) bool { return time.Since(a.sent) >= got.left-margin(got.left) }

// settled turns an answer that ends an attempt into what it means.
func settled(out acquireOut) (grant, error) {
	switch out.Outcome {
	case isLeased:
		return grant{out.Token, time.Duration(out.Left) * time.Microsecond}, nil
	case isHeld:
		return grant{}, ErrHeld
	case otherMode:
		return grant{}, ErrMode
	case tooMany:
		return grant{}, ErrTooMany
	}
	return grant{}, fmt.Errorf("%w: outcome %d", store.ErrOutcomeUnknown, out.Outcome)
}

func (a *attempt) ask(ctx context.Context, wait bool) (acquireOut, error) {
	w, of := a.r.weight()
	in := acquireIn{Mark: a.at.mark, Held: a.at.held, Queue: a.at.queue, Waiters: a.at.waiters, Names: a.at.names,
		Name: a.name, Owner: a.owner, Weight: w, Of: of, TTL: a.r.TTL.Microseconds(), Hold: a.r.MaxHold.Microseconds(),
		Channel: a.l.channel, MaxWaiters: int64(a.l.opts.MaxWaiters), Who: a.r.Who}
	if wait {
		in.Alive = alive.Microseconds()
	}
	sent := time.Now()
	out, err := acquire.Do(ctx, a.l.store, in)
	if err == nil {
		a.sent = sent
	}
	return out, err
}

// wait stands in line until it is this attempt's turn.
func (a *attempt) wait(ctx context.Context) (grant, error) {
	if err := a.l.listen(ctx); err != nil {
		return grant{}, err
	}
	turn := a.l.enter(a.owner)
	defer a.l.leave(a.owner, turn)
	got, err := a.inLine(ctx, turn)
	switch {
	case err == nil:
	case a.again && errors.Is(err, ErrHeld):
		return a.lastLook()
	default:
		a.forget(err)
	}
	return got, err
}

// overdue is why a wait ends whose time is over.
func (a *attempt) overdue() error {
	if a.keepPlace && !mutant.PlaceLost {
		return ErrKeepPlace
	}
	return ErrHeld
}

// lastLook ends a wait whose time is over by leaving the line, and takes what was given just before that:
// who is told that others hold the name does not come back for it.
func (a *attempt) lastLook() (grant, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUp)
	defer cancel()
	if _, err := a.l.end(ctx, a.name, a.at, a.owner, placeOnly); err != nil {
		return grant{}, err // its place ends by itself, in 3 s
	}
	out, err := a.ask(ctx, false)
	if err != nil {
		return grant{}, err
	}
	return settled(out)
}

func (a *attempt) inLine(ctx context.Context, turn <-chan int64) (grant, error) {
	if mutant.WaitEndless {
		ctx = context.WithoutCancel(ctx)
	}
	answered := time.Now()
	var over <-chan time.Time
	if a.patience > 0 {
		end := time.NewTimer(a.patience)
		defer end.Stop()
		over = end.C
	}
	for first := true; ; first = false {
		out, err := a.ask(ctx, true)
		switch {
		case ctx.Err() != nil && a.sent.IsZero(): // nobody knows whether it is in line
			return grant{}, fmt.Errorf("%w: %w: %w", context.Cause(ctx), store.ErrOutcomeUnknown, err)
		case ctx.Err() != nil:
			return grant{}, context.Cause(ctx)
		case errors.Is(err, store.ErrClosed) || err != nil && (first || time.Since(answered) > giveUp) && !mutant.StoreAwaited:
			return grant{}, err
		case err != nil:
			out.Again = (100 * time.Millisecond).Microseconds()
		case out.Outcome != waits:
			if got, err := settled(out); err != nil || !a.late(got) {
				return got, err
			}
			answered = time.Now()
			continue // it is at the end of the line again
		default:
			answered = time.Now()
		}
		timer := time.NewTimer(pause(out.Again))
		select {
		case token := <-turn:
			timer.Stop()
			// It was given at some time after the last question that said it was not. When that is
			// long ago, little of the lease may be left, and the next question says how much.
			if time.Since(a.sent) < a.r.TTL/3 {
				return grant{token, min(a.r.TTL, a.r.MaxHold)}, nil
			}
		case <-timer.C:
		case <-over:
			timer.Stop()
			return grant{}, a.overdue()
		case <-ctx.Done():
			timer.Stop()
			return grant{}, context.Cause(ctx)
		case <-a.l.ctx.Done():
			timer.Stop()
			return grant{}, ErrClosed
		}
	}
}

// pause is how long to wait before the next look: until a lease ends that stands in the way, and
// not much longer than lookAgain, at different times for different waiters.
func pause(again int64) time.Duration {
	d := lookAgain*3/4 + mathrand.N(lookAgain/2)
	if again > 0 {
		d = min(d, time.Duration(again)*time.Microsecond+time.Millisecond)
	}
	return d
}

// endless is a patience that lasts as long as the context.
const endless = -1

// forget ends, in the background, what an attempt that has failed may have left in the store.
func (a *attempt) forget(why error) {
	refused := errors.Is(why, ErrMode) || errors.Is(why, ErrTooMany)
	if refused || mutant.StaysInLine || a.sent.IsZero() && errors.Is(why, store.ErrUnavailable) {
		return // it left nothing
	}
	token := int64(0)
	if a.again {
		if errors.Is(why, ErrKeepPlace) {
			return
		}
		token = placeOnly
	}
	a.l.background(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanUp)
		defer cancel()
		if _, err := a.l.end(ctx, a.name, a.at, a.owner, token); err != nil {
			a.l.opts.Logger.Info("lock: what a request left ends by itself", "name", a.name, "error", err)
		}
	})
}

// background runs f on a goroutine that Close waits for; once it waits, in the foreground.
func (l *Locker) background(f func()) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		f()
		return
	}
	l.wg.Add(1)
	l.mu.Unlock()
	go func() {
		defer l.wg.Done()
		f()
	}()
}

// end releases what an owner has, or the lease with one token.
func (l *Locker) end(ctx context.Context, name string, at place, owner string, token int64) (outcome int64, err error) {
	out, err := release.Do(ctx, l.store, releaseIn{Mark: at.mark, Held: at.held, Queue: at.queue, Waiters: at.waiters,
		Names: at.names, Name: name, Owner: owner, Token: token})
	return out.Outcome, err
}

// listen subscribes to what wakes this process's waiters, once.
func (l *Locker) listen(ctx context.Context) error {
	if l.listens.Load() {
		return nil
	}
	l.listening.Lock()
	defer l.listening.Unlock()
	if l.listens.Load() {
		return nil
	}
	if _, err := l.store.Subscribe(ctx, l.channel, l.woken); err != nil { // ends with the store
		return err
	}
	l.listens.Store(true)
	return nil
}

func (l *Locker) enter(owner string) chan int64 {
	turn := make(chan int64, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines[owner] = turn
	return turn
}

func (l *Locker) leave(owner string, turn chan int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines[owner] == turn { // otherwise somebody has come to ask for the same owner again
		delete(l.lines, owner)
	}
}

// woken takes "owner token". It never waits.
func (l *Locker) woken(payload string) {
	owner, text, _ := strings.Cut(payload, " ")
	token, err := strconv.ParseInt(text, 10, 64)
	if err != nil || token <= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.lines[owner] <- token: // nobody's is a nil channel
	default:
	}
}
