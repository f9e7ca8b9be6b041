package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// clockReserve is how far ahead of the clock the mark on disk is set, and so the longest that
// the clock can stand still after a crash.
const clockReserve = time.Second

// clock never goes back, also over a restart. For that a mark ahead of it is on disk: no time
// beyond the mark is given out, and a restart begins at the mark. A clean end moves the mark
// back to the last time that was given out.
//
// The mark moves when half of it is used up, in the background; decisions wait for that only
// when there were none for a while. An idle store writes nothing.
type clock struct {
	wall func() time.Time
	last atomic.Int64  // the latest time given out, µs
	mark atomic.Int64  // on disk, µs
	need chan struct{} // asks run to move the mark

	mu    sync.Mutex
	moved chan struct{} // closed when the mark moves, then replaced
}

func newClock(wall func() time.Time) *clock {
	c := &clock{wall: wall, need: make(chan struct{}, 1), moved: make(chan struct{})}
	c.mark.Store(math.MaxInt64) // mem: no restart remembers it
	return c
}

// now gives out a time that no later call goes below. It never waits: in the moment between
// ready and now the wall clock can pass the mark, and then the mark is the time.
func (c *clock) now() int64 {
	now := min(c.wall().UnixMicro(), c.mark.Load())
	for {
		last := c.last.Load()
		if now <= last {
			return last
		}
		if c.last.CompareAndSwap(last, now) {
			return now
		}
	}
}

// ready returns when the mark is ahead of the wall clock.
func (c *clock) ready(ctx context.Context, timeout time.Duration, ended *failure) error {
	ahead := c.mark.Load() - c.wall().UnixMicro()
	if ahead >= clockReserve.Microseconds()/2 {
		return nil
	}
	c.ask()
	for {
		c.mu.Lock()
		moved := c.moved
		c.mu.Unlock()
		if c.mark.Load() > c.wall().UnixMicro() {
			return nil
		}
		if err := await(ctx, moved, timeout, ended); err != nil {
			return fmt.Errorf("%w: waiting for the clock's mark: %w", ErrUnavailable, err)
		}
	}
}

// ask has the mark moved in the background.
func (c *clock) ask() {
	select {
	case c.need <- struct{}{}:
	default: // it was asked already
	}
}

// load begins where the store was left.
func (c *clock) load(db *pebble.DB) error {
	b, closer, err := db.Get(clockKey)
	if errors.Is(err, pebble.ErrNotFound) {
		c.mark.Store(0)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: read the clock's mark: %w", ErrUnavailable, err)
	}
	mark, err := decodeClock(b)
	if err := errors.Join(err, closer.Close()); err != nil {
		return err
	}
	c.mark.Store(mark)
	c.last.Store(mark)
	return nil
}

func decodeClock(b []byte) (int64, error) {
	if len(b) != 8 || b[0] > 0x7f {
		return 0, fmt.Errorf("%w: the clock's mark is %x", ErrCorrupt, b)
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

// next is where the mark should be.
func (c *clock) next() int64 {
	return max(c.wall().UnixMicro(), c.last.Load()) + clockReserve.Microseconds()
}

// advance takes note that a mark is on disk.
func (c *clock) advance(mark int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark.Store(mark)
	close(c.moved)
	c.moved = make(chan struct{})
}

// keepTime moves the clock's mark when it is asked to.
func (e *embedded) keepTime() {
	for {
		select {
		case <-e.clock.need:
			mark := e.clock.next()
			if e.writeClock(mark) != nil {
				return
			}
			e.clock.advance(mark)
		case <-e.ctx.Done():
			return
		}
	}
}

// writeClock returns when the mark is on disk.
func (e *embedded) writeClock(mark int64) error {
	b := binary.BigEndian.AppendUint64(nil, uint64(mark))
	if err := e.db.Set(clockKey, b, pebble.NoSync); err != nil {
		e.ended.set(err)
	}
	return e.sync.now()
}
