package sqldb

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"
)

// snapshotPages is how many pages are copied between two looks at the context.
const snapshotPages = 1024

// Snapshot writes file, which must not exist, mode 0600: a SQLite database with what this one
// holds at one moment, that is, every transaction whose Write had returned before, and none that
// begins later. At that moment at is called (nil: nothing is) while nobody commits: what it
// copies elsewhere belongs to the same moment. It must be short, and must not Write. Copying
// the pages, which comes after, holds up nobody.
//
// The file is there, synced, when Snapshot returns; after an error it is not. Errors: ErrConfig
// on PostgreSQL, which has tools of its own, ErrBusy, ErrUnavailable, ErrFull, and at's.
func (db *DB) Snapshot(ctx context.Context, file string, at func(ctx context.Context) error) (err error) {
	if db.dialect != SQLite {
		return fmt.Errorf("%w: snapshots are SQLite's; PostgreSQL has pg_dump and pg_basebackup", ErrConfig)
	}
	if file, err = filepath.Abs(file); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := db.enter(); err != nil {
		return err
	}
	defer db.running.Done()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("%w: snapshot: %w", ErrConfig, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := db.copyTo(ctx, file, at); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return syncFile(f)
}

// copyTo chooses the moment and copies what was there.
func (db *DB) copyTo(ctx context.Context, file string, at func(ctx context.Context) error) (err error) {
	pool := db.snapshots()
	defer func() { err = errors.Join(err, pool.Close()) }()
	conn, err := pool.Conn(ctx)
	if err != nil {
		return db.classify(err)
	}
	defer conn.Close()
	if err := db.standStill(ctx, func(ctx context.Context) error {
		// The first read is what ties a transaction to the moment.
		for _, query := range []string{`BEGIN`, `SELECT count(*) FROM sqlite_schema`} {
			if _, err := conn.ExecContext(ctx, query); err != nil {
				return db.classify(err)
			}
		}
		if at == nil {
			return nil
		}
		return at(ctx)
	}); err != nil {
		return err
	}
	return conn.Raw(func(c any) error { return db.classify(copyPages(ctx, c, file)) })
}

// standStill runs fn while nobody writes: there is one writer's connection, and it has it.
func (db *DB) standStill(ctx context.Context, fn func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, db.opts.Timeout)
	defer cancel()
	if err := db.writer.turns.take(ctx); err != nil {
		return fail(ErrBusy, fmt.Errorf("waiting for the writer: %w", err))
	}
	defer db.writer.turns.give()
	return fn(ctx)
}

// copyPages copies what the connection's transaction sees.
func copyPages(ctx context.Context, conn any, file string) error {
	source, ok := conn.(interface {
		NewBackup(uri string) (*sqlite.Backup, error)
	})
	if !ok {
		return fmt.Errorf("%w: the driver makes no backups", ErrConfig)
	}
	backup, err := source.NewBackup((&url.URL{Scheme: "file", Path: file}).String())
	if err != nil {
		return err
	}
	for more := true; more && err == nil; {
		if more, err = backup.Step(snapshotPages); err == nil {
			err = ctx.Err()
		}
	}
	return errors.Join(err, backup.Finish())
}

// syncFile makes a file and its name durable.
func syncFile(f *os.File) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%w: snapshot: %w", ErrUnavailable, err)
	}
	dir, err := os.Open(filepath.Dir(f.Name()))
	if err != nil {
		return fmt.Errorf("%w: snapshot: %w", ErrUnavailable, err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("%w: snapshot: %w", ErrUnavailable, err)
	}
	return nil
}
