package ratelimit

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

// circuit keeps callers from waiting for a store that does not answer. After some failures in a
// row it is open: calls are turned away at once, and only keep asks, until there is an answer.
type circuit struct {
	failures atomic.Int64 // in a row
	open     atomic.Bool
	wake     chan struct{} // tells keep that it has opened
}

const (
	opensAfter = 3
	// A process asks a store that is gone after pauses that grow from the first to the longest, each of random
	// length between a half and three halves, so that all of them do not come back at once.
	firstPause = 100 * time.Millisecond
	longPause  = 2 * time.Second
	// One that answered again and is gone again within this time is asked less and less often.
	steady = 10 * time.Second
)

var errOpen = errors.New("the store is not asked: it did not answer")

// call makes one call of the store, at most as long as timeout.
func (c *circuit) call(ctx context.Context, timeout time.Duration, fn func(context.Context) error) error {
	if c.open.Load() {
		return errOpen
	}
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := fn(within)
	switch {
	case err == nil:
		c.failures.Store(0)
	case !gone(err): // one key cannot be decided, others can
	case ctx.Err() != nil: // the caller has left; that says nothing of the store
	case mutant.CircuitOff:
	case c.failures.Add(1) >= opensAfter && c.open.CompareAndSwap(false, true):
		select {
		case c.wake <- struct{}{}:
		default: // it is awake
		}
	}
	return err
}

// gone says whether an error tells of the store and not of one key.
func gone(err error) bool {
	return errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrOutcomeUnknown) || errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrClosed)
}

func (c *circuit) close() {
	c.failures.Store(0)
	c.open.Store(false)
}

// retry is when the store will have been asked again.
func (c *circuit) retry() time.Duration { return longPause * 3 / 2 }

// keep tells the store now and then that this process lives, learns how many do, and asks a store that
// is gone whether it is back.
func (l *Limiter) keep() {
	pause, closed := firstPause, time.Time{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.circuit.wake:
			l.opts.Logger.Warn("limits: the store does not answer; each rule's policy decides")
			if time.Since(closed) > steady {
				pause = firstPause
			}
		case <-timer.C:
			if l.beat() {
				if l.circuit.open.Load() {
					l.opts.Logger.Info("limits: the store answers again")
					closed = time.Now()
				}
				l.circuit.close()
			}
		}
		next := l.opts.Beat
		if l.circuit.open.Load() || l.live.Load() == 0 {
			next = min(pause/2+rand.N(pause), l.opts.Beat)
			pause = min(2*pause, longPause)
		}
		timer.Reset(next)
	}
}

func (l *Limiter) beat() bool {
	ctx, cancel := context.WithTimeout(l.ctx, l.opts.Timeout)
	defer cancel()
	s := l.store.Load()
	if s == nil {
		return false
	}
	out, err := beat.Do(ctx, s, beatIn{liveKey, l.process, 3 * l.opts.Beat.Microseconds()})
	if err != nil {
		return false
	}
	l.live.Store(out.Live)
	return true
}
