package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

// embedded is the engine inside the process, on Pebble.
//
// A decision takes the lock of its slot, runs over a Tx, applies one batch and gives the lock
// back; then it waits for the round of syncing that its batch is part of. A decision that only
// read waits too, for the round of what its slot wrote last: no reply tells of something that
// could still be lost.
type embedded struct {
	opts    Options
	db      *pebble.DB
	durable bool
	slots   []slotState
	clock   *clock
	sync    *syncer // nil for mem:
	space   *space
	notes   *notifier
	sweeper sweeper
	stall   stall
	ended   *failure

	mu     sync.RWMutex // held for reading by every decision, for writing by stop
	closed bool
	pause  chan struct{}   // closed when the checkpoint is made that decisions wait for; nil: none
	ctx    context.Context // done when the background work has to end
	cancel context.CancelFunc
	wg     sync.WaitGroup // the background work
	guard  chan struct{}  // closed when the watch for a failure is over
	once   sync.Once
	err    error
}

// slotState is what one slot's decisions share, one after the other.
type slotState struct {
	mu     sync.Mutex
	last   *round // of the last write
	floors floors
	recent recent
}

// start begins the background work; the database is open and its format checked.
func (e *embedded) start() {
	e.wg.Go(func() { e.every(time.Second, e.watchSpace) })
	e.wg.Go(func() { e.every(sweepEvery, e.sweep) })
	if e.durable {
		e.wg.Go(e.keepTime)
	}
	go func() {
		defer close(e.guard)
		select {
		case <-e.ended.done:
			e.stop() // nothing may go on on a disk that is frozen
		case <-e.ctx.Done():
		}
	}()
}

func (e *embedded) every(d time.Duration, fn func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			fn()
		case <-e.ctx.Done():
			return
		}
	}
}

func (e *embedded) watchSpace() {
	e.space.measure()
	if err := e.space.reclaim(e.ctx); err != nil && e.ctx.Err() == nil {
		e.opts.Logger.Warn("store: room was not reclaimed", "error", err)
	}
}

func (e *embedded) do(ctx context.Context, _ *decisionCore, c call) ([]any, error) {
	slot, err := oneSlot(c.keys)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	if err := e.enter(ctx); err != nil {
		return nil, err
	}
	defer e.mu.RUnlock()
	if err := e.ready(ctx); err != nil {
		return nil, err
	}
	r, wrote, err := e.decide(slot, c)
	if err != nil {
		return nil, err
	}
	return nil, r.wait(ctx, e.opts.Timeout, wrote)
}

// enter takes mu for reading, when no checkpoint is being made.
func (e *embedded) enter(ctx context.Context) error {
	for e.mu.RLock(); e.pause != nil; e.mu.RLock() {
		pause := e.pause
		e.mu.RUnlock()
		select {
		case <-pause:
		case <-ctx.Done():
			return fmt.Errorf("%w: a checkpoint is being made: %w", ErrUnavailable, context.Cause(ctx))
		case <-time.After(e.opts.Timeout):
			return fmt.Errorf("%w: a checkpoint is being made, for more than %s", ErrUnavailable, e.opts.Timeout)
		}
	}
	return nil
}

// ready returns when a decision can run without waiting for the disk.
func (e *embedded) ready(ctx context.Context) error {
	if err := e.usable(); err != nil {
		return err
	}
	if err := e.clock.ready(ctx, e.opts.Timeout, e.ended); err != nil {
		return err
	}
	return e.stall.pass(ctx, e.opts.Timeout, e.ended)
}

func (e *embedded) usable() error {
	if err := e.ended.get(); err != nil {
		return err
	}
	if e.closed {
		return ErrClosed
	}
	return nil
}

// decide runs a decision and applies what it wrote. The round returned is what the answer
// waits for; nil when there is nothing to wait for.
func (e *embedded) decide(slot uint16, c call) (r *round, wrote bool, err error) {
	s := &e.slots[slot]
	s.mu.Lock()
	defer s.mu.Unlock() // also when the body panics
	tx := newTx(e, s, slot, c.keys)
	defer tx.end()
	c.run(tx)
	err = tx.finish(c)
	if ended := e.ended.get(); ended != nil {
		return nil, false, ended // what was read meanwhile can be wrong: Pebble lives on a frozen disk
	}
	if err != nil {
		return nil, false, err
	}
	if !tx.wrote() && len(tx.notes) == 0 {
		s.keep(tx)
		return s.last, false, nil
	}
	if err := e.apply(tx); err != nil {
		return nil, false, err
	}
	s.keep(tx)
	s.last = e.publish(tx.notes)
	return s.last, true, nil
}

// apply puts what a decision wrote into the log and into memory. From here on others see it.
func (e *embedded) apply(tx *Tx) error {
	if !tx.wrote() {
		return nil
	}
	if err := e.space.admit(tx.batch.Len(), tx.growing); err != nil {
		return err
	}
	if err := e.db.Apply(tx.batch, pebble.NoSync); err != nil {
		e.ended.set(err)
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	e.sweeper.expect(tx.earliest)
	return nil
}

// publish hands on notes when they are as durable as they will be, and returns the round in
// which that is.
func (e *embedded) publish(notes []note) *round {
	if e.sync == nil || mutant.SyncOff {
		e.notes.publish(notes)
		return nil
	}
	return e.sync.join(notes)
}

func (e *embedded) ping(context.Context) error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.usable()
}

func (e *embedded) subscribe(_ context.Context, channel string, fn func(string)) (func(), error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if err := e.usable(); err != nil {
		return nil, err
	}
	return e.notes.subscribe(channel, fn)
}

func (e *embedded) capabilities() Capabilities { return Capabilities{} }

func (e *embedded) class() Class {
	if e.durable {
		return ClassA
	}
	return ClassC
}

// close stops the engine. An engine that had ended says why.
func (e *embedded) close() error {
	e.stop()
	<-e.guard
	return e.err
}

// stop lets what runs finish, writes the clock's mark as it is and closes the database.
func (e *embedded) stop() {
	e.once.Do(func() {
		e.mu.Lock()
		e.closed = true
		e.mu.Unlock()
		e.cancel()
		e.wg.Wait()
		if e.durable && e.ended.get() == nil {
			e.err = e.writeClock(e.clock.last.Load())
		}
		if e.sync != nil {
			e.sync.close()
		}
		e.notes.close()
		err := e.db.Close()
		if ended := e.ended.get(); ended != nil {
			e.err = fmt.Errorf("store: closed after a failure: %w", ended)
		} else if err != nil {
			e.err = errors.Join(e.err, fmt.Errorf("store: close: %w", err))
		}
	})
}
