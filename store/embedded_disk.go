package store

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk is the file system as Pebble sees it. The first operation that fails to change it
// freezes it: from then on nothing reaches the real one, and Pebble is told that all is well.
//
// Pebble cannot be told the truth. Where it meets an error while it writes or changes its log
// it panics with locks held, in places over a mutex that it has unlocked already, which ends
// the process past every recover. So an error is kept from it and ends the engine instead.
//
// Nothing is lost by that: what is frozen is what a crash in that moment would have left, and
// an engine that is opened again begins there. And nothing is promised: every answer asks
// ended after its sync, and ended was set before that sync came back.
type disk struct {
	vfs.FS
	ended *failure
	void  *vfs.MemFS // takes the files that are created after the freeze
}

func newDisk(files vfs.FS, ended *failure) *disk {
	return &disk{FS: files, ended: ended, void: vfs.NewMem()}
}

// change runs an operation that changes the file system, unless that is frozen.
func (d *disk) change(what, name string, op func() error) {
	if d.ended.cause() == nil {
		d.judge(what, name, op())
	}
}

// judge freezes the file system on an error.
func (d *disk) judge(what, name string, err error) {
	if err != nil {
		d.ended.set(fmt.Errorf("%s %s: %w", what, name, err))
	}
}

// create makes a file by op, or one that leads nowhere.
func (d *disk) create(what, name string, op func() (vfs.File, error)) (f vfs.File, err error) {
	d.change(what, name, func() error {
		f, err = op()
		return err
	})
	if f == nil || err != nil {
		if f, err = d.void.Create(d.PathBase(name), "store-void"); err != nil {
			return nil, err
		}
	}
	return &diskFile{File: f, disk: d, name: name}, nil
}

func (d *disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.create("create", name, func() (vfs.File, error) { return d.FS.Create(name, c) })
}

func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.create("open", name, func() (vfs.File, error) { return d.FS.OpenReadWrite(name, c, opts...) })
}

func (d *disk) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.create("reuse", name, func() (vfs.File, error) { return d.FS.ReuseForWrite(old, name, c) })
}

func (d *disk) OpenDir(name string) (vfs.File, error) {
	return d.create("open", name, func() (vfs.File, error) { return d.FS.OpenDir(name) })
}

func (d *disk) Link(old, name string) error {
	d.change("link", name, func() error { return d.FS.Link(old, name) })
	return nil
}

func (d *disk) Rename(old, name string) error {
	d.change("rename", name, func() error { return d.FS.Rename(old, name) })
	return nil
}

func (d *disk) MkdirAll(dir string, perm os.FileMode) error {
	d.change("mkdir", dir, func() error { return d.FS.MkdirAll(dir, perm) })
	return nil
}

// Remove reports its errors: Pebble removes only what it no longer needs, and goes on.
func (d *disk) Remove(name string) error {
	if d.ended.cause() != nil {
		return nil
	}
	return d.FS.Remove(name)
}

func (d *disk) RemoveAll(name string) error {
	if d.ended.cause() != nil {
		return nil
	}
	return d.FS.RemoveAll(name)
}

func (d *disk) Unwrap() vfs.FS { return d.FS }

// diskFile is a file that Pebble writes.
type diskFile struct {
	vfs.File
	disk *disk
	name string
}

func (f *diskFile) Write(p []byte) (int, error) {
	f.disk.change("write", f.name, func() error {
		_, err := f.File.Write(p)
		return err
	})
	return len(p), nil
}

func (f *diskFile) WriteAt(p []byte, at int64) (int, error) {
	f.disk.change("write", f.name, func() error {
		_, err := f.File.WriteAt(p, at)
		return err
	})
	return len(p), nil
}

func (f *diskFile) Sync() error {
	f.disk.change("sync", f.name, f.File.Sync)
	return nil
}

func (f *diskFile) SyncData() error {
	f.disk.change("sync", f.name, f.File.SyncData)
	return nil
}

func (f *diskFile) SyncTo(length int64) (full bool, err error) {
	f.disk.change("sync", f.name, func() error {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, nil
}

// Close closes the file in any case: the process must not run out of descriptors.
func (f *diskFile) Close() error {
	f.disk.judge("close", f.name, f.File.Close())
	return nil
}

// Stat must not fail on a log that Pebble reuses: that too is a panic.
func (f *diskFile) Stat() (vfs.FileInfo, error) {
	info, err := f.File.Stat()
	if err != nil {
		f.disk.judge("stat", f.name, err)
		return unknownFile{}, nil
	}
	return info, nil
}

// unknownFile describes a file of which nothing is known any more.
type unknownFile struct{ fs.FileInfo }

func (unknownFile) Size() int64            { return 0 }
func (unknownFile) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

// failure is the first fault after which the engine cannot go on.
type failure struct {
	err  atomic.Pointer[error]
	once sync.Once
	done chan struct{} // closed when there is one
}

func newFailure() *failure { return &failure{done: make(chan struct{})} }

func (f *failure) set(err error) {
	f.once.Do(func() {
		f.err.Store(&err)
		close(f.done)
	})
}

// cause is the fault itself.
func (f *failure) cause() error {
	if p := f.err.Load(); p != nil {
		return *p
	}
	return nil
}

// get is nil, or what every caller hears from then on.
func (f *failure) get() error {
	if err := f.cause(); err != nil {
		return fmt.Errorf("%w: the engine has ended until it is opened again: %w", ErrUnavailable, err)
	}
	return nil
}
