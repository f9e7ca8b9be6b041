package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// files keeps the snapshots' files, each named for its index. A file is a line that says its
// format, the body, and the CRC-32C of the body (4 bytes, the highest first).
type files struct {
	fs    vfs.FS
	dir   string
	parts *atomic.Uint64 // were begun; no two have one name
}

const (
	fileSuffix = ".rdb"
	partSuffix = ".part"
	fileKind   = "holdfast snapshot "
	fileHead   = fileKind + "1\n"
	fileTail   = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func openFiles(fs vfs.FS, dir string) (files, error) {
	f := files{fs, fs.PathJoin(dir, "snapshots"), &atomic.Uint64{}}
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
func (f files) write(index uint64, body func(io.Writer) error) error {
	part, err := f.begin(index, body)
	if err != nil {
		return err
	}
	return f.place(part, index)
}

// syncEvery is how much of a file is written before it goes to the disk: all of it at its end would hold up the
// syncs of the log.
const syncEvery = 2 << 20

// begin writes the file, to disk, under a name of its own.
func (f files) begin(index uint64, body func(io.Writer) error) (part string, err error) {
	part = f.path(index) + "." + strconv.FormatUint(f.parts.Add(1), 10) + partSuffix
	file, err := f.fs.Create(part, vfs.WriteCategoryUnspecified)
	if err != nil {
		return "", err
	}
	steps := vfs.NewSyncingFile(file, vfs.SyncingFileOptions{BytesPerSync: syncEvery, NoSyncOnClose: true})
	if err = fill(steps, body); err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, steps.Close()); err != nil {
		return "", errors.Join(err, f.fs.Remove(part))
	}
	return part, nil
}

// place gives the file its name.
func (f files) place(part string, index uint64) error {
	if err := f.fs.Rename(part, f.path(index)); err != nil {
		return errors.Join(err, f.fs.Remove(part))
	}
	return syncDir(f.fs, f.dir)
}

func fill(w io.Writer, body func(io.Writer) error) error {
	if _, err := io.WriteString(w, fileHead); err != nil {
		return err
	}
	sum := crc32.New(castagnoli)
	// The sum first: a writer may change what it was given (a test's file system does, to find who relies on it).
	if err := body(io.MultiWriter(sum, w)); err != nil {
		return err
	}
	_, err := w.Write(sum.Sum(nil))
	return err
}

// open gives the body of a file, and its size.
func (f files) open(index uint64) (_ io.ReadCloser, size int64, err error) {
	path := f.path(index)
	file, err := f.fs.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: snapshot %s: %w", ErrDamaged, path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	head := make([]byte, len(fileHead))
	if _, err := io.ReadFull(file, head); err != nil || info.Size() < int64(len(fileHead)+fileTail) {
		return nil, 0, fmt.Errorf("%w: snapshot %s: it has %d bytes", ErrDamaged, path, info.Size())
	}
	switch text := string(head); {
	case text == fileHead:
	case strings.HasPrefix(text, fileKind):
		return nil, 0, fmt.Errorf("%w: snapshot %s: %q", ErrFormat, path, strings.TrimPrefix(text, fileKind))
	default:
		return nil, 0, fmt.Errorf("%w: snapshot %s: it begins with %q", ErrDamaged, path, text)
	}
	size = info.Size() - int64(len(fileHead)+fileTail)
	return bodyOf{io.LimitReader(file, size), file}, size, nil
}

// stat is the size of a file's body, and when it was made.
func (f files) stat(index uint64) (size int64, made time.Time, err error) {
	info, err := f.fs.Stat(f.path(index))
	if err != nil {
		return 0, made, err
	}
	return max(info.Size()-int64(len(fileHead)+fileTail), 0), info.ModTime(), nil
}

type bodyOf struct {
	io.Reader
	file vfs.File
}

func (b bodyOf) Close() error { return b.file.Close() }

// verify reads a file once: what is damaged shows before anything is built on it.
func (f files) verify(index uint64) (err error) {
	body, _, err := f.open(index)
	if err != nil {
		return err
	}
	file := body.(bodyOf)
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := crc32.New(castagnoli)
	if _, err := io.CopyBuffer(sum, file.Reader, make([]byte, 256<<10)); err != nil {
		return fmt.Errorf("%w: snapshot %s: %w", ErrDamaged, f.path(index), err)
	}
	var tail [fileTail]byte
	if _, err := io.ReadFull(file.file, tail[:]); err != nil {
		return fmt.Errorf("%w: snapshot %s: %w", ErrDamaged, f.path(index), err)
	}
	if got := binary.BigEndian.Uint32(tail[:]); got != sum.Sum32() {
		return fmt.Errorf("%w: snapshot %s: its checksum is %08x, not %08x", ErrDamaged, f.path(index), sum.Sum32(), got)
	}
	return nil
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
