package lock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

// margin is what a lease's local end lies before the engine's: clocks that run at different speeds
// differ by less than a hundredth.
func margin(left time.Duration) time.Duration { return left/100 + time.Millisecond }

// Lease is a name that is held. It is renewed in the background until it is released, lost, or
// has been held for MaxHold.
type Lease struct {
	l     *Locker
	name  string
	at    place
	owner string
	token int64
	r     Request

	ctx    context.Context
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	timer  *time.Timer // the next renewal
	until  time.Time   // local end, if no renewal is confirmed before it
	limit  time.Time   // MaxHold
	ended  bool
	result error // of Release
	done   chan struct{}
}

// Name is what is held.
func (s *Lease) Name() string { return s.name }

// Token is the fencing token: larger than those of all earlier leases of the name.
func (s *Lease) Token() int64 { return s.token }

// Owner is the lease's id, which no other lease ever has.
func (s *Lease) Owner() string { return s.owner }

// Context is done when the lease is released, lost, or not known to be held: when less than a
// hundredth of its time and 1 ms is left by the local monotonic clock, counted from before the last
// confirmed request was sent. context.Cause tells why: ErrReleased, or an error that wraps ErrLost.
// It has no values and no deadline.
func (s *Lease) Context() context.Context { return s.ctx }

// hold makes a lease of what the engine has given to an attempt.
func (l *Locker) hold(a *attempt, got grant) (*Lease, error) {
	s := &Lease{l: l, name: a.name, at: a.at, owner: a.owner, token: got.token, r: a.r, until: a.sent.Add(got.left - margin(got.left)),
		limit: a.sent.Add(a.r.MaxHold - margin(a.r.MaxHold)), done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.leases[s] = struct{}{}
	}
	l.mu.Unlock()
	if closed {
		a.forget(ErrClosed)
		return nil, ErrClosed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.schedule(s.next())
	return s, nil
}

// next is when to renew: when a third of the time is over; it needs mu.
func (s *Lease) next() time.Duration {
	return max(time.Until(s.until)-s.r.TTL*2/3, 0)
}

// renew runs on a goroutine of its timer.
func (s *Lease) renew() {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.l.wg.Add(1)
	defer s.l.wg.Done()
	until := s.until
	s.mu.Unlock()
	ctx, cancel := context.WithDeadline(s.ctx, until)
	defer cancel()
	// What does not answer by then is lost, whatever the store is about.
	stopped := context.AfterFunc(ctx, func() { s.expire(until) })
	defer stopped()
	sent := time.Now()
	out, err := renew.Do(ctx, s.l.store, renewIn{Held: s.at.held, Owner: s.owner, TTL: s.r.TTL.Microseconds()})
	switch {
	case err == nil && out.Token == 0:
		s.lose(fmt.Errorf("%w: %q is not held any more", ErrLost, s.name))
	case err == nil:
		left := time.Duration(out.Left) * time.Microsecond
		s.confirmed(sent.Add(left - margin(left)))
	case ctx.Err() == nil:
		s.again(min(s.r.TTL/10, time.Second))
	}
}

// confirmed moves the local end, never back.
func (s *Lease) confirmed(until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until.After(s.limit) {
		until = s.limit
	}
	if !s.ended && until.After(s.until) {
		s.until = until
	}
	s.schedule(s.next())
}

func (s *Lease) again(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.schedule(min(d, time.Until(s.until))) // at the end the next one finds that it is too late
}

// schedule needs mu. A lease that cannot be renewed any more, because MaxHold is near, only ends.
func (s *Lease) schedule(d time.Duration) {
	if s.ended {
		return
	}
	if !s.until.Before(s.limit) {
		until := s.until
		s.timer = time.AfterFunc(time.Until(until), func() { s.expire(until) })
		return
	}
	s.timer = time.AfterFunc(d, s.renew)
}

// expire ends a lease whose time is over, unless it was renewed meanwhile.
func (s *Lease) expire(until time.Time) {
	s.mu.Lock()
	late := !s.ended && !s.until.After(until) && !time.Now().Before(until)
	why := "was not renewed in time"
	if !until.Before(s.limit) {
		why = "was held for its MaxHold"
	}
	s.mu.Unlock()
	if late {
		s.lose(fmt.Errorf("%w: %q %s", ErrLost, s.name, why))
	}
}

// finish ends renewing and the context; it is true for the first who asks.
func (s *Lease) finish(cause error) bool {
	s.mu.Lock()
	first := !s.ended
	s.ended = true
	s.timer.Stop()
	s.mu.Unlock()
	if !first {
		return false
	}
	s.cancel(cause)
	s.l.mu.Lock()
	delete(s.l.leases, s)
	s.l.mu.Unlock()
	return true
}

func (s *Lease) lose(cause error) {
	if !mutant.LossUntold && s.finish(cause) {
		s.result = cause
		close(s.done)
		s.l.opts.Logger.Warn("lock: a lease is lost", "name", s.name, "token", s.token, "cause", cause)
	}
}

// Release ends the lease and lets the next one have the name. It returns nil when the lease was
// held until now, an error that wraps ErrLost when it had ended before, or the store's when it could
// not be reached: then the lease ends by itself within its TTL. A later call waits for the first
// and returns its result.
func (s *Lease) Release(ctx context.Context) error {
	if !s.finish(ErrReleased) {
		select {
		case <-s.done:
			return s.result
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(s.done)
	outcome, err := s.l.end(ctx, s.name, s.at, s.owner, 0)
	if err != nil && ctx.Err() == nil { // the same owner: safe
		outcome, err = s.l.end(ctx, s.name, s.at, s.owner, 0)
	}
	switch {
	case err != nil:
		s.result = fmt.Errorf("lock: %q: %w", s.name, err)
	case outcome != hadLease:
		s.result = fmt.Errorf("%w: %q had ended before it was released", ErrLost, s.name)
	}
	return s.result
}

// fence draws the token elsewhere, and confirms after it that the lease is held still: so whoever
// gets it later draws later.
func (s *Lease) fence(ctx context.Context) error {
	token, err := s.l.opts.Fence(ctx)
	if err == nil {
		sent := time.Now()
		var out renewOut
		out, err = renew.Do(ctx, s.l.store, renewIn{Held: s.at.held, Owner: s.owner, TTL: s.r.TTL.Microseconds()})
		if err == nil && out.Token == 0 {
			err = ErrLost
		}
		left := time.Duration(out.Left) * time.Microsecond
		if err == nil {
			s.confirmed(sent.Add(left - margin(left)))
		}
	}
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		return errors.Join(fmt.Errorf("no token: %w", err), s.Release(clean))
	}
	s.token = token
	return nil
}
