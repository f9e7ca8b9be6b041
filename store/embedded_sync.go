package store

import (
	"context"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// syncer makes batches durable in rounds: all that were applied while one sync ran share the
// next. The log is written in order, so one sync after them covers them all.
type syncer struct {
	db    *pebble.DB
	ended *failure
	mu    sync.Mutex
	open  *round // takes batches; nil when nobody waits
	kick  chan struct{}
	done  chan struct{}
}

// round is one sync and those who wait for it.
type round struct {
	over chan struct{}
	err  error // set before over is closed
}

func newSyncer(db *pebble.DB, ended *failure) *syncer {
	s := &syncer{db: db, ended: ended, kick: make(chan struct{}, 1), done: make(chan struct{})}
	go s.run()
	return s
}

// join is called after a batch was applied: it will be durable when the round is over.
func (s *syncer) join() *round {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = &round{over: make(chan struct{})}
		s.kick <- struct{}{} // has room: there is one kick for each open round
	}
	return s.open
}

func (s *syncer) run() {
	defer close(s.done)
	for range s.kick {
		s.mu.Lock()
		r := s.open
		s.open = nil
		s.mu.Unlock()
		if err := s.sync(); err != nil {
			s.ended.set(err)
			r.err = fmt.Errorf("%w: sync: %w", ErrOutcomeUnknown, err)
		}
		close(r.over)
	}
}

// sync writes a record that says nothing and waits until the log is on disk up to it.
func (s *syncer) sync() error {
	if err := s.ended.get(); err != nil {
		return err
	}
	b := s.db.NewBatch()
	defer func() { _ = b.Close() }()
	if err := b.LogData([]byte{0}, nil); err != nil {
		return err
	}
	if err := s.db.ApplyNoSyncWait(b, pebble.Sync); err != nil {
		return err
	}
	if err := s.ended.get(); err != nil { // a fatal error that Apply told only the logger
		return err
	}
	return b.SyncWait()
}

// close ends the goroutine; nobody joins any more.
func (s *syncer) close() {
	close(s.kick)
	<-s.done
}

// wait returns when the round is over. A nil round is.
func (r *round) wait(ctx context.Context) error {
	if r == nil {
		return nil
	}
	select {
	case <-r.over:
		return r.err
	default:
	}
	select {
	case <-r.over:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("%w: not on disk yet: %w", ErrOutcomeUnknown, context.Cause(ctx))
	}
}
