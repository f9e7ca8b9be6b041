package replica_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// tmpfs is a file system of its own.
type tmpfs struct {
	t     *testing.T
	dir   string
	files int
}

func newTmpfs(t *testing.T, size int64) *tmpfs {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("holdfast-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size))
	if errors.Is(err, syscall.EPERM) {
		t.Skip("a file system cannot be mounted without root: A REAL FULL DISK IS NOT TRIED")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return &tmpfs{t: t, dir: dir}
}

// fill leaves so many bytes.
func (d *tmpfs) fill(leave int64) {
	d.t.Helper()
	d.files++
	f, err := os.Create(filepath.Join(d.dir, fmt.Sprint("filler", d.files)))
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	piece := make([]byte, 64<<10)
	for {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(d.dir, &fs); err != nil {
			d.t.Fatal(err)
		}
		free := int64(fs.Bavail) * fs.Bsize
		if free <= leave {
			return
		}
		if _, err := f.Write(piece[:min(int64(len(piece)), free-leave)]); err != nil && !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatal(err)
		}
	}
}

// empty removes what fill has made.
func (d *tmpfs) empty() {
	d.t.Helper()
	for ; d.files > 0; d.files-- {
		if err := os.Remove(filepath.Join(d.dir, fmt.Sprint("filler", d.files))); err != nil {
			d.t.Fatal(err)
		}
	}
}
