package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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
	lock    *pebble.Lock // on the directory
	durable bool
	slots   []slotState
	clock   *clock
	sync    *syncer // nil for mem:
	space   *space
	notes   *notifier
	ended   failure

	closing chan struct{}
	mu      sync.RWMutex // held for reading by every decision, for writing by close
	closed  bool
	wg      sync.WaitGroup // background goroutines
	once    sync.Once
	err     error
}

// slotState is a slot's lock, and the round of its last write.
type slotState struct {
	mu   sync.Mutex
	last *round
}

// failure is the first fault after which the engine cannot go on.
type failure struct{ err atomic.Pointer[error] }

func (f *failure) set(err error) { f.err.CompareAndSwap(nil, &err) }

func (f *failure) get() error {
	if p := f.err.Load(); p != nil {
		return fmt.Errorf("%w: the engine has ended and must be opened again: %w", ErrUnavailable, *p)
	}
	return nil
}

// start begins the background work; the database is open and its format checked.
func (e *embedded) start() {
	e.closing = make(chan struct{})
	e.wg.Go(func() { e.every(time.Second, e.space.measure) })
	e.wg.Go(func() { e.every(sweepEvery, e.sweep) })
	if e.durable {
		e.wg.Go(func() { e.every(clockReserve/4, func() { _ = e.clock.reserve() }) })
	}
	e.wg.Go(func() { e.notes.run(e.closing) })
}

func (e *embedded) every(d time.Duration, fn func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if e.ended.get() == nil {
				fn()
			}
		case <-e.closing:
			return
		}
	}
}

func (e *embedded) do(ctx context.Context, d *decisionCore, c call) ([]any, error) {
	slot, err := oneSlot(c.keys)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.opts.Timeout)
	defer cancel()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if err := e.usable(); err != nil {
		return nil, err
	}
	r, notes, err := e.decide(&e.slots[slot], c.run)
	if err != nil {
		return nil, err
	}
	if err := r.wait(ctx); err != nil {
		return nil, err
	}
	e.notes.publish(notes)
	return nil, nil
}

func (e *embedded) usable() error {
	if e.closed {
		return ErrClosed
	}
	return e.ended.get()
}

// decide runs body and applies what it wrote. The round returned is what the answer waits for;
// nil when there is nothing to wait for.
func (e *embedded) decide(s *slotState, body func(*Tx)) (*round, []note, error) {
	s.mu.Lock()
	defer s.mu.Unlock() // also when body panics
	now, err := e.clock.now()
	if err != nil {
		return nil, nil, err
	}
	tx := &Tx{now: now, db: e.db}
	defer tx.release()
	body(tx)
	tx.finish()
	if tx.err != nil {
		return nil, nil, tx.err
	}
	if tx.batch == nil || tx.batch.Empty() {
		return s.last, tx.notes, nil
	}
	if tx.growing {
		if err := e.space.admit(tx.batch.Len()); err != nil {
			return nil, nil, err
		}
	}
	r, err := e.apply(tx.batch)
	s.last = r
	return r, tx.notes, err
}

// apply puts a batch into the log and into memory; the round that it returns says when it is on
// disk.
func (e *embedded) apply(b *pebble.Batch) (*round, error) {
	if err := e.db.Apply(b, pebble.NoSync); err != nil {
		e.ended.set(err)
	}
	if err := e.ended.get(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	if e.sync == nil || mutant.SyncOff {
		return nil, nil
	}
	return e.sync.join(), nil
}

func (tx *Tx) release() {
	if tx.batch != nil {
		_ = tx.batch.Close() // frees memory; what was applied stays
	}
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
	return e.notes.subscribe(channel, fn), nil
}

func (e *embedded) capabilities() Capabilities { return Capabilities{} }

func (e *embedded) class() Class {
	if e.durable {
		return ClassA
	}
	return ClassC
}

// close lets what runs finish, writes the clock's mark as it is and closes the database.
func (e *embedded) close() error {
	e.once.Do(func() {
		e.mu.Lock()
		e.closed = true
		e.mu.Unlock()
		close(e.closing)
		e.wg.Wait()
		if e.ended.get() == nil && e.durable {
			e.err = e.clock.rest()
		}
		if e.sync != nil {
			e.sync.close()
		}
		e.err = errors.Join(e.err, e.closeDB())
	})
	return e.err
}

// closeDB closes Pebble. After a failed write to its log Pebble's own Close can panic; what is
// left then is only memory, the directory's lock goes with it or with the process.
func (e *embedded) closeDB() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("store: close: %v", p)
		}
	}()
	defer func() { err = errors.Join(err, e.lock.Close()) }()
	if err := e.db.Close(); err != nil {
		return fmt.Errorf("store: close: %w", err)
	}
	return nil
}
