package store

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// space refuses what grows before Pebble itself runs out of room, because after a failed write
// the engine is at its end. Usage is measured each second; in between, what is written counts.
type space struct {
	db       *pebble.DB
	files    vfs.FS
	dir      string
	disk     bool
	maxBytes int64
	minFree  int64
	log      *slog.Logger

	used  atomic.Int64 // bytes, when last measured
	free  atomic.Int64
	grew  atomic.Int64 // bytes written since then
	freed atomic.Bool  // something was deleted since the last reclaim
	full  atomic.Bool
}

// measure asks Pebble and the file system. What is written meanwhile counts twice until the
// next time, not never.
func (s *space) measure() {
	grew := s.grew.Load()
	m := s.db.Metrics()
	used := int64(m.DiskSpaceUsage())
	if !s.disk {
		used += int64(m.MemTable.Size) // no log on disk stands for it
	}
	s.used.Store(used)
	if s.disk {
		u, err := s.files.GetDiskUsage(s.dir)
		if err != nil {
			s.log.Warn("store: free space is not known", "error", err)
		} else {
			s.free.Store(int64(min(u.AvailBytes, 1<<62)))
		}
	}
	s.grew.Add(-grew)
	s.note(s.refusal(0))
}

// admit counts n bytes that are about to be written. Where growing is true they are refused
// when there is no room.
func (s *space) admit(n int, growing bool) error {
	if growing {
		if err := s.refusal(int64(n)); err != nil {
			s.note(err)
			return err
		}
	} else {
		s.freed.Store(true)
	}
	s.grew.Add(int64(n))
	return nil
}

// refusal is why n more bytes have no room.
func (s *space) refusal(n int64) error {
	grew := s.grew.Load() + n
	if s.used.Load()+grew > s.maxBytes {
		return fmt.Errorf("%w: it would be more than %d bytes", ErrFull, s.maxBytes)
	}
	if s.disk && s.free.Load()-grew < s.minFree {
		return fmt.Errorf("%w: less than %d bytes would be free below %s", ErrFull, s.minFree, s.dir)
	}
	return nil
}

// note tells an operator when the store fills up and when it has room again.
func (s *space) note(full error) {
	if s.full.Swap(full != nil) == (full != nil) {
		return
	}
	if full != nil {
		s.log.Error("store: growing writes are refused", "error", full, "used", s.used.Load(), "free", s.free.Load())
	} else {
		s.log.Info("store: there is room again", "used", s.used.Load(), "free", s.free.Load())
	}
}

// reclaim gives back the room of what was deleted. Pebble does so by and by while it is
// written to; a store that is full is not, and would stay full.
func (s *space) reclaim(ctx context.Context) error {
	if !s.full.Load() || !s.freed.Swap(false) {
		return nil
	}
	if err := s.db.Flush(); err != nil {
		return err
	}
	return s.db.Compact(ctx, []byte{spaceSystem}, []byte{spaceDeadline + 1}, false)
}
