package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
)

// checkpointer is an engine whose data is files of this process.
type checkpointer interface {
	checkpoint(ctx context.Context, dir string) error
}

// Checkpoint makes dir, which must not exist, a store of its own with what this one holds at
// one moment: every decision that was acknowledged before the call, none that begins after it.
// Decisions wait meanwhile, for some milliseconds: files that do not change are linked, if dir is
// on the same file system. It is there, synced, when Checkpoint returns; after an error dir is
// to be thrown away.
//
// It is for file:. Others have tools of their own; they give ErrConfig.
func (s *Store) Checkpoint(ctx context.Context, dir string) error {
	c, ok := s.engine.(checkpointer)
	if !ok || s.Class() != ClassA {
		return fmt.Errorf("%w: only a file: store has checkpoints", ErrConfig)
	}
	return c.checkpoint(ctx, dir)
}

func (r *reopening) checkpoint(ctx context.Context, dir string) error {
	return r.current().checkpoint(ctx, dir)
}

func (e *embedded) checkpoint(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Errorf("%w: %s is there already", ErrConfig, dir)
	}
	goOn, err := e.standStill()
	if err != nil {
		return err
	}
	defer goOn()
	if err := e.db.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
		return errors.Join(fmt.Errorf("%w: checkpoint: %w", ErrUnavailable, err), e.ended.get())
	}
	return e.ended.get() // a frozen disk has made nothing
}

// standStill lets decisions end that run, their rounds of syncing with them, and the others wait
// until goOn; whoever waits too long is told so.
func (e *embedded) standStill() (goOn func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.usable(); err != nil {
		return nil, err
	}
	if e.pause != nil {
		return nil, fmt.Errorf("%w: another checkpoint is being made", ErrUnavailable)
	}
	pause := make(chan struct{})
	e.pause = pause
	e.wg.Add(1) // the database is not closed meanwhile
	return func() {
		defer e.wg.Done()
		e.mu.Lock()
		e.pause = nil
		e.mu.Unlock()
		close(pause)
	}, nil
}
