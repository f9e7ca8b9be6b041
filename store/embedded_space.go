package store

import (
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
	dir      string
	disk     bool
	maxBytes int64
	minFree  int64
	log      *slog.Logger

	used atomic.Int64 // bytes, when last measured
	free atomic.Int64
	grew atomic.Int64 // bytes written since then
	full atomic.Bool  // for the log: say it once
}

func newSpace(db *pebble.DB, dir string, disk bool, opts Options) *space {
	s := &space{db: db, dir: dir, disk: disk, maxBytes: opts.MaxBytes, minFree: opts.MinFree, log: opts.Logger}
	s.measure()
	return s
}

func (s *space) measure() {
	m := s.db.Metrics()
	used := int64(m.DiskSpaceUsage())
	if !s.disk {
		used += int64(m.MemTable.Size) // no log on disk stands for it
	}
	s.grew.Store(0)
	s.used.Store(used)
	if s.disk {
		if u, err := vfs.Default.GetDiskUsage(s.dir); err == nil {
			s.free.Store(int64(u.AvailBytes))
		}
	}
}

// admit counts n bytes that are about to be written, or refuses them.
func (s *space) admit(n int) error {
	grew := s.grew.Load() + int64(n)
	var err error
	switch {
	case s.used.Load()+grew > s.maxBytes:
		err = fmt.Errorf("%w: more than %d bytes", ErrFull, s.maxBytes)
	case s.disk && s.free.Load()-grew < s.minFree:
		err = fmt.Errorf("%w: less than %d bytes are free below %s", ErrFull, s.minFree, s.dir)
	default:
		s.grew.Add(int64(n))
	}
	if was := s.full.Swap(err != nil); was != (err != nil) {
		s.log.Warn("store: room", "full", err != nil, "used", s.used.Load(), "free", s.free.Load())
	}
	return err
}
