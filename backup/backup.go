// Package backup copies what an embedded server has, a file: store and a SQLite database, as it
// was at one moment, while the server goes on; and puts it back.
//
// Promised: a backup has everything that was acknowledged before Make was called, in both
// places, and nothing that began after Make returned. At its moment no transaction and no
// decision was half done, so what stands in one place fits what stands in the other. A directory
// that has the backup's name is whole: it is put together under another one. Restore checks every
// byte against the manifest before anything has the name that a server looks for, and
// overwrites nothing.
//
// Not promised: what happened after the moment; above all, what a payment provider did then is
// not undone. A store or a database that is a server of its own has tools of its own.
//
// Cost: writers wait for some milliseconds while the moment is chosen; then as much disk as the
// data takes (files of the store are linked where the file system allows that).
package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

var (
	// ErrExists: what would be written is there already. Nothing was written.
	ErrExists = errors.New("backup: exists already")
	// ErrDamaged: the directory is no backup, is incomplete, or its files are not what was
	// written. Nothing was restored.
	ErrDamaged = errors.New("backup: damaged")
	// ErrNewer: the backup has a format of a newer program.
	ErrNewer = errors.New("backup: made by a newer program")
)

const (
	format       = 1
	manifestName = "backup.json"
	storeName    = "store"
	dbName       = "holdfast.db"
	maxManifest  = 64 << 20
)

// Manifest is what a backup says of itself, in backup.json.
type Manifest struct {
	Format  int       `json:"format"`
	MadeAt  time.Time `json:"made_at"` // the moment, by the machine's clock
	Program string    `json:"program"` // version
	Bytes   int64     `json:"bytes"`   // of all files
	Files   []File    `json:"files"`
}

// File is one file of a backup.
type File struct {
	Path   string `json:"path"` // below the backup's directory, with slashes
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Unfinished is in the names of directories in which a backup is being made, or was when its process
// ended. They lie beside what they would have become.
const Unfinished = ".partial-"

// Make makes the directory dir, which must not exist, a backup of st, which must be file:, and
// db, which must be SQLite. Program is the version that the manifest names. Errors: ErrExists,
// and those of store.Checkpoint and sqldb.DB.Snapshot.
func Make(ctx context.Context, st *store.Store, db *sqldb.DB, dir, program string) (m Manifest, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return m, fmt.Errorf("backup: %w", err)
	}
	if err := absent(dir); err != nil {
		return m, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return m, fmt.Errorf("backup: %w", err)
	}
	partial, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+Unfinished)
	if err != nil {
		return m, fmt.Errorf("backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(partial))
		}
	}()
	m = Manifest{Format: format, Program: program}
	if m.MadeAt, err = cut(ctx, st, db, partial); err != nil {
		return m, err
	}
	if err := m.list(ctx, partial); err != nil {
		return m, err
	}
	if err := m.write(partial); err != nil {
		return m, err
	}
	if err := absent(dir); err != nil { // a rename would replace an empty one
		return m, err
	}
	if err := errors.Join(os.Rename(partial, dir), syncDir(filepath.Dir(dir))); err != nil {
		return m, fmt.Errorf("backup: %w", err)
	}
	return m, nil
}

// cut copies both at one moment: while nobody commits to the database, and then nobody decides in
// the store.
func cut(ctx context.Context, st *store.Store, db *sqldb.DB, dir string) (at time.Time, err error) {
	checkpoint := func(ctx context.Context) error {
		at = time.Now().UTC()
		return st.Checkpoint(ctx, filepath.Join(dir, storeName))
	}
	if mutant.CutOff {
		if err := checkpoint(ctx); err != nil {
			return at, err
		}
		time.Sleep(300 * time.Millisecond)
		return at, db.Snapshot(ctx, filepath.Join(dir, dbName), nil)
	}
	return at, db.Snapshot(ctx, filepath.Join(dir, dbName), checkpoint)
}

func absent(path string) error {
	_, err := os.Lstat(path)
	switch {
	case err == nil:
		return fmt.Errorf("%w: %s", ErrExists, path)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// list reads every file once more, from where it will be read.
func (m *Manifest) list(ctx context.Context, dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path == filepath.Join(dir, manifestName) {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f := File{Path: filepath.ToSlash(rel)}
		if f.Bytes, f.SHA256, err = sum(ctx, path, io.Discard); err != nil {
			return err
		}
		m.Bytes += f.Bytes
		m.Files = append(m.Files, f)
		return nil
	})
}

// sum copies a file to w and says what it was.
func sum(ctx context.Context, path string, w io.Writer) (n int64, hash string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	for buf := make([]byte, 1<<20); ; {
		if err := ctx.Err(); err != nil {
			return n, "", err
		}
		k, err := f.Read(buf)
		if _, werr := io.MultiWriter(h, w).Write(buf[:k]); werr != nil {
			return n, "", werr
		}
		n += int64(k)
		if errors.Is(err, io.EOF) {
			return n, hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return n, "", err
		}
	}
}

// write makes the manifest the last file, and everything durable.
func (m *Manifest) write(dir string) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, manifestName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close(), syncDir(dir), syncDir(filepath.Join(dir, storeName))); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
