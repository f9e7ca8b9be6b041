package consensus

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// files keeps the snapshots' files, each named for its index.
type files struct {
	fs  vfs.FS
	dir string
}

const (
	fileSuffix = ".rdb"
	partSuffix = ".part"
)

func openFiles(fs vfs.FS, dir string) (files, error) {
	f := files{fs, fs.PathJoin(dir, "snapshots")}
	if err := MakeDir(fs, f.dir); err != nil {
		return f, err
	}
	names, err := fs.List(f.dir)
	if err != nil {
		return f, err
	}
	for _, name := range names { // what was being written when the process ended
		if strings.HasSuffix(name, partSuffix) {
			err = errors.Join(err, fs.Remove(fs.PathJoin(f.dir, name)))
		}
	}
	return f, err
}

// MakeDir makes a directory, and those above it, that are still there after a power loss.
func MakeDir(fs vfs.FS, dir string) error {
	var made []string // and not yet on disk where they stand
	for d := dir; fs.PathDir(d) != d; d = fs.PathDir(d) {
		if _, err := fs.Stat(d); err == nil {
			break
		}
		made = append(made, d)
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, d := range made {
		if err := syncDir(fs, fs.PathDir(d)); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f files) path(index uint64) string {
	return f.fs.PathJoin(f.dir, strconv.FormatUint(index, 10)+fileSuffix)
}

// write makes a snapshot's file: whole and on disk, or not at all.
func (f files) write(index uint64, body func(io.Writer) error) (err error) {
	part := f.path(index) + partSuffix
	file, err := f.fs.Create(part, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	err = body(file)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, f.fs.Remove(part))
	}
	if err := f.fs.Rename(part, f.path(index)); err != nil {
		return err
	}
	return syncDir(f.fs, f.dir)
}

func (f files) open(index uint64) (io.ReadCloser, int64, error) {
	file, err := f.fs.Open(f.path(index))
	if err != nil {
		return nil, 0, fmt.Errorf("%w: snapshot %d: %w", ErrDamaged, index, err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// prune removes what is older than index. A file that is being read stays readable.
func (f files) prune(index uint64) error {
	names, err := f.fs.List(f.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		n, bad := strconv.ParseUint(strings.TrimSuffix(name, fileSuffix), 10, 64)
		if bad == nil && n < index {
			err = errors.Join(err, f.fs.Remove(f.fs.PathJoin(f.dir, name)))
		}
	}
	return err
}
