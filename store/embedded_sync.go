package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// syncer makes batches durable in rounds: all that were applied while one sync ran share the
// next. The log is written in order, so one sync after them covers them all.
//
// Pebble can wait for each batch by itself, but not for a caller who gives up, and no more
// than some hundred at a time.
type syncer struct {
	db    *pebble.DB
	ended *failure
	notes *notifier
	kick  chan struct{}
	done  chan struct{}

	mu   sync.Mutex
	open *round // takes batches; nil when nobody waits
}

// round is one sync and those who wait for it.
type round struct {
	over  chan struct{}
	err   error         // set before over is closed
	late  chan struct{} // closed when it has been open for a while; see wait
	timer *time.Timer
	notes []note // in the order of the decisions
}

// lateAfter is when those who wait for a round look at their watches: nearly always it is over
// long before, and none of them needs one.
const lateAfter = 100 * time.Millisecond

func newRound() *round {
	r := &round{over: make(chan struct{}), late: make(chan struct{})}
	r.timer = time.AfterFunc(lateAfter, func() { close(r.late) })
	return r
}

func newSyncer(db *pebble.DB, ended *failure, notes *notifier) *syncer {
	s := &syncer{db: db, ended: ended, notes: notes, kick: make(chan struct{}, 1), done: make(chan struct{})}
	go s.run()
	return s
}

// join is called after a batch was applied: it is on disk when the round is over. The notes
// are published then.
func (s *syncer) join(notes []note) *round {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = newRound()
		s.kick <- struct{}{} // has room: there is one kick for each open round
	}
	s.open.notes = append(s.open.notes, notes...)
	return s.open
}

// now returns when all that was applied is on disk.
func (s *syncer) now() error {
	r := s.join(nil)
	<-r.over
	return r.err
}

func (s *syncer) run() {
	defer close(s.done)
	for range s.kick {
		runtime.Gosched() // who is about to decide, most of all those of the last round, joins this one
		s.mu.Lock()
		r := s.open
		s.open = nil
		s.mu.Unlock()
		if r.err = s.sync(); r.err == nil {
			s.notes.publish(r.notes)
		}
		r.timer.Stop()
		close(r.over)
	}
}

// sync writes a record that says nothing and returns when the log is on disk up to it.
func (s *syncer) sync() error {
	if err := s.ended.get(); err != nil {
		return err
	}
	if err := s.db.LogData(nothing, pebble.Sync); err != nil {
		s.ended.set(err)
	}
	return s.ended.get() // what Pebble was not told; see disk
}

var nothing = []byte{0}

// close ends the goroutine; nobody joins any more.
func (s *syncer) close() {
	close(s.kick)
	<-s.done
}

// wait returns when the round is over. A nil round is. It says what became of the caller's
// own write, if it was one.
func (r *round) wait(ctx context.Context, timeout time.Duration, wrote bool) error {
	if r == nil {
		return nil
	}
	err := r.await(ctx, timeout)
	if err == nil {
		err = r.err
	}
	switch {
	case err == nil:
		return nil
	case wrote:
		return fmt.Errorf("%w: applied, but not known to be on disk: %w", ErrOutcomeUnknown, err)
	}
	return fmt.Errorf("%w: what was read is not known to be on disk: %w", ErrUnavailable, err)
}

func (r *round) await(ctx context.Context, timeout time.Duration) error {
	if timeout <= lateAfter {
		return await(ctx, r.over, timeout, nil)
	}
	began := time.Now()
	select {
	case <-r.over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.late:
		return await(ctx, r.over, timeout-time.Since(began), nil)
	}
}

var errTimeout = errors.New("store: Options.Timeout is over")

// await waits for done, but no longer than any of the others allow. ended may be nil.
func await(ctx context.Context, done <-chan struct{}, timeout time.Duration, ended *failure) error {
	select {
	case <-done:
		return nil
	default:
	}
	var failed chan struct{}
	if ended != nil {
		failed = ended.done
	}
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-failed:
		return ended.get()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return errTimeout
	}
}
