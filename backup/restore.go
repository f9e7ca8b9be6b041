package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Read returns what the backup in dir says of itself. Errors: ErrDamaged, ErrNewer.
func Read(dir string) (m Manifest, err error) {
	f, err := os.Open(filepath.Join(dir, manifestName))
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		return m, fmt.Errorf("%w: %s: %w", ErrDamaged, manifestName, err)
	}
	if m.Format != format {
		return m, fmt.Errorf("%w: format %d, and this program reads %d", ErrNewer, m.Format, format)
	}
	return m, m.check()
}

// check refuses names that would lead elsewhere.
func (m *Manifest) check() error {
	var db, st bool
	for _, f := range m.Files {
		path := filepath.FromSlash(f.Path)
		inStore := filepath.Dir(path) == storeName
		if !filepath.IsLocal(path) || path != filepath.Clean(path) || path != dbName && !inStore {
			return fmt.Errorf("%w: it names a file %q", ErrDamaged, f.Path)
		}
		db, st = db || path == dbName, st || inStore
	}
	if !db || !st {
		return fmt.Errorf("%w: the manifest lacks the database or the store", ErrDamaged)
	}
	return nil
}

// Restore copies the backup in dir to the directory of a store and the file of a database, which
// must not exist, for a server that is not running. Every file is checked on the way; the names
// appear when everything is there and synced. Errors: ErrExists, ErrDamaged, ErrNewer.
func Restore(ctx context.Context, dir, storeDir, dbFile string) (m Manifest, err error) {
	if m, err = Read(dir); err != nil {
		return m, err
	}
	if storeDir, dbFile, err = apart(storeDir, dbFile); err != nil {
		return m, err
	}
	for _, path := range []string{storeDir, dbFile, dbFile + "-wal", dbFile + "-journal"} { // foreign logs would be read into it
		if err := absent(path); err != nil {
			return m, err
		}
	}
	to, err := newTarget(dir, storeDir, dbFile)
	if err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(to.store), remove(to.db))
		}
	}()
	if err := to.copy(ctx, m); err != nil {
		return m, err
	}
	return m, to.settle(storeDir, dbFile)
}

// apart makes the names absolute. Neither may lie in the other: what is put together in one place
// could not get the other's name.
func apart(storeDir, dbFile string) (dir, file string, err error) {
	if dir, err = filepath.Abs(storeDir); err == nil {
		file, err = filepath.Abs(dbFile)
	}
	if err != nil {
		return "", "", fmt.Errorf("backup: %w", err)
	}
	for _, pair := range [][2]string{{dir, file}, {file, dir}} {
		if rel, err := filepath.Rel(pair[0], pair[1]); err == nil && filepath.IsLocal(rel) {
			return "", "", fmt.Errorf("backup: the database (%s) and the store's directory (%s) must lie beside each other", file, dir)
		}
	}
	return dir, file, nil
}

// settle gives both their names, or neither. A process that dies in between leaves the store alone,
// which the next Restore refuses by name (ErrExists): remove it then.
func (t target) settle(storeDir, dbFile string) error {
	err := os.Rename(t.store, storeDir)
	if err == nil {
		if err = os.Rename(t.db, dbFile); err != nil {
			err = errors.Join(err, os.Rename(storeDir, t.store)) // where it is cleared away
		}
	}
	if err == nil {
		err = errors.Join(syncDir(filepath.Dir(storeDir)), syncDir(filepath.Dir(dbFile)))
	}
	if err != nil {
		return fmt.Errorf("backup: restoring: %w", err)
	}
	return nil
}

// target is where files go until all of them are there.
type target struct{ backup, store, db string }

// newTarget finds names that nobody else has, beside those that are meant.
func newTarget(backup, storeDir, dbFile string) (t target, err error) {
	for _, path := range []string{storeDir, dbFile} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return t, fmt.Errorf("backup: %w", err)
		}
	}
	t.backup = backup
	if t.store, err = os.MkdirTemp(filepath.Dir(storeDir), filepath.Base(storeDir)+".restoring-"); err != nil {
		return t, fmt.Errorf("backup: %w", err)
	}
	t.db = dbFile + filepath.Ext(t.store)
	return t, nil
}

func (t target) copy(ctx context.Context, m Manifest) error {
	for _, f := range m.Files {
		path := filepath.FromSlash(f.Path)
		to := t.db
		if path != dbName {
			to = filepath.Join(t.store, filepath.Base(path))
		}
		if err := f.copy(ctx, filepath.Join(t.backup, path), to); err != nil {
			return err
		}
	}
	if err := syncDir(t.store); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// copy copies a file and compares it with the manifest.
func (f File) copy(ctx context.Context, from, to string) error {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	n, hash, err := sum(ctx, from, out)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("backup: %s: %w", f.Path, err)
	}
	if n != f.Bytes || hash != f.SHA256 {
		return fmt.Errorf("%w: %s is not what was written", ErrDamaged, f.Path)
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
