package consensus

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// reserve is room that is kept on the log's disk: a file that holds nothing. It is given up
// when the disk is full, and what failed is tried again. Whoever filled the disk may be
// somebody else, so watching how much is free would not do.
type reserve struct {
	fs   vfs.FS // not the one whose failures give it up
	dir  string
	size int64

	mu   sync.Mutex
	kept bool
}

func (r *reserve) path() string { return r.fs.PathJoin(r.dir, "reserve") }

// keep takes the room, again or for the first time.
func (r *reserve) keep() (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept || r.size == 0 {
		return nil
	}
	f, err := r.fs.OpenReadWrite(r.path(), vfs.WriteCategoryUnspecified) // what it has, it does not let go
	if err != nil {
		return err
	}
	err = f.Preallocate(0, r.size)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		err = zeros(f, r.size)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, r.fs.Remove(r.path()))
	}
	r.kept = true
	return nil
}

// zeros is for file systems that cannot give room to a file in advance.
func zeros(f vfs.File, size int64) error {
	piece := make([]byte, 1<<20)
	for size > 0 {
		n, err := f.Write(piece[:min(size, int64(len(piece)))])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}

// giveUp frees the room, on disk too when it returns: some file systems give it back with the next sync only.
func (r *reserve) giveUp() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.kept {
		return false
	}
	r.kept = false
	return errors.Join(r.fs.Remove(r.path()), syncDir(r.fs, r.dir)) == nil
}

func (r *reserve) isKept() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept || r.size == 0
}

// Room is how the log's disk stands.
type Room struct {
	Free    int64 // bytes, the reserve apart; math.MaxInt64 where that is not known
	Reserve int64 // bytes that are kept; 0 when they were given up
}

// Room looks at the disk.
func (n *Node) Room() Room {
	room := Room{Free: Free(n.cfg.FS, n.cfg.Dir)}
	if n.reserve.isKept() {
		room.Reserve = n.reserve.size
	}
	return room
}

// LogBytes is how large the log's files are.
func (n *Node) LogBytes() (size int64) {
	dir := n.cfg.FS.PathJoin(n.cfg.Dir, "log")
	names, err := n.cfg.FS.List(dir)
	if err != nil {
		return 0
	}
	for _, name := range names {
		if info, err := n.cfg.FS.Stat(n.cfg.FS.PathJoin(dir, name)); err == nil { // else it is gone
			size += info.Size()
		}
	}
	return size
}

// Free is how many bytes can be written where dir is; math.MaxInt64 where that is not known.
func Free(fs vfs.FS, dir string) int64 {
	usage, err := fs.GetDiskUsage(dir)
	if err != nil || usage.AvailBytes > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(usage.AvailBytes)
}

// Replenish takes the reserve's room again, when it had been given up and there is enough.
func (n *Node) Replenish() error { return n.reserve.keep() }

// full is told that a write found no room, and is about to be tried again.
func (n *Node) full() {
	if n.reserve.giveUp() {
		n.cfg.Logger.Error("the disk of the log is full; its reserve has been given up", "dir", n.cfg.Dir, "bytes", n.reserve.size)
	}
}

// fullOr names the failure that goes away when there is room again.
func fullOr(err error) error {
	if vfs.IsNoSpaceError(err) && !errors.Is(err, ErrFull) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
