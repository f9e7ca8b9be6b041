package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// clock never goes back, also over a restart. For that, a mark ahead of it is on disk: no time
// beyond the mark is given out, and a restart begins at the mark. A clean end moves the mark
// back to the last time given out, so that the clock goes on where it was.
type clock struct {
	wall func() time.Time
	last atomic.Int64 // the latest time given out, µs
	mark atomic.Int64 // durable
	mu   sync.Mutex   // one reservation at a time
	e    *embedded
}

func newClock(e *embedded) (*clock, error) {
	c := &clock{wall: e.opts.Clock, e: e}
	if !e.durable {
		return c, nil
	}
	b, closer, err := e.db.Get(clockKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return c, c.reserve()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = closer.Close() }()
	if len(b) != 8 {
		return nil, fmt.Errorf("%w: the clock's mark", ErrCorrupt)
	}
	mark := int64(binary.BigEndian.Uint64(b))
	c.mark.Store(mark)
	c.last.Store(mark)
	return c, c.reserve()
}

// now gives out a time that no later call will be below.
func (c *clock) now() (int64, error) {
	now := c.wall().UnixMicro()
	for {
		last := c.last.Load()
		if now <= last {
			now = last
			break
		}
		if c.e.durable && now > c.mark.Load() {
			if err := c.reserve(); err != nil {
				return 0, err
			}
			continue
		}
		if c.last.CompareAndSwap(last, now) {
			break
		}
	}
	return now, nil
}

// reserve moves the mark ahead and returns when it is on disk.
func (c *clock) reserve() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ahead := max(c.wall().UnixMicro(), c.last.Load()) + clockReserve.Microseconds()
	if ahead-c.mark.Load() < clockReserve.Microseconds()/8 {
		return nil // somebody else was faster
	}
	return c.store(ahead)
}

// rest writes the last time given out as the mark. Nobody asks for the time any more.
func (c *clock) rest() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.store(c.last.Load())
}

func (c *clock) store(mark int64) error {
	b := binary.BigEndian.AppendUint64(nil, uint64(mark))
	err := c.e.db.Set(clockKey, b, pebble.Sync)
	if ended := c.e.ended.get(); ended != nil {
		return ended
	}
	if err != nil {
		return fmt.Errorf("%w: clock: %w", ErrUnavailable, err)
	}
	c.mark.Store(mark)
	return nil
}
