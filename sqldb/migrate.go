package sqldb

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"regexp"
	"slices"
	"time"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

const coreName = "core"

// migrateWait is how long a program waits for another that migrates the same schema.
const migrateWait = 2 * time.Minute

// Migrations is what one package needs in the database. FS holds the directories sqlite
// and postgres with files NNNNN_what.sql as goose reads them; what was applied stands in
// the table holdfast_migrations_NAME. Name: lower-case letters, digits and _, at most 30.
type Migrations struct {
	Name string
	FS   fs.FS
}

// Core is what sqldb itself needs: the outbox and, on PostgreSQL, holdfast_now(). It is
// the first in every list.
func Core() Migrations {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the path above is a constant
	}
	return Migrations{Name: coreName, FS: dir}
}

var setName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,29}$`)

// Migrate applies what is missing, set by set. It may be called at every start and by
// many programs at once: on PostgreSQL one works, per schema, and the others wait, at
// most two minutes. When one of the sets was migrated by a newer program it returns
// ErrNewer and applies nothing.
func (db *DB) Migrate(ctx context.Context, sets ...Migrations) error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.running.Done()
	if db.dialect == SQLite {
		if err := db.writer.turns.take(ctx); err != nil {
			return fail(ErrBusy, fmt.Errorf("waiting for the writer: %w", err))
		}
		defer db.writer.turns.give()
		return db.apply(ctx, db.writer.DB, sets)
	}
	pool := db.migrator()
	defer pool.Close()
	unlock, err := db.migrateLock(ctx, pool)
	if err != nil {
		return err
	}
	defer unlock()
	err = db.apply(ctx, pool, sets)
	if err == nil && slices.ContainsFunc(sets, func(m Migrations) bool { return m.Name == coreName }) {
		err = db.moveOutboxOn(ctx, pool)
	}
	return err
}

// migrateLock holds an advisory lock of this schema in a transaction of its own, which
// ends with its connection whatever happens to this process.
func (db *DB) migrateLock(ctx context.Context, pool *sql.DB) (unlock func(), err error) {
	tx, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return nil, db.beginFailure(err)
	}
	ctx, cancel := context.WithTimeout(ctx, migrateWait)
	defer cancel()
	for {
		var schema sql.NullString
		var got bool
		err := tx.QueryRowContext(ctx, `SELECT current_schema(),
			coalesce(pg_try_advisory_xact_lock(hashtext('holdfast migrate'), hashtext(current_schema())), false)`).Scan(&schema, &got)
		switch {
		case err == nil && got:
			return func() { _ = tx.Rollback() }, nil
		case err == nil && schema.Valid:
			err = sleep(ctx, 20*time.Millisecond+rand.N(50*time.Millisecond))
			if err != nil {
				err = fail(ErrBusy, fmt.Errorf("another program migrates schema %s: %w", schema.String, err))
			}
		case err == nil:
			err = fmt.Errorf("%w: search_path names no schema that exists", ErrConfig)
		}
		if err != nil {
			return nil, errors.Join(db.classify(err), ignoreDone(tx.Rollback()))
		}
	}
}

func (db *DB) apply(ctx context.Context, pool *sql.DB, sets []Migrations) error {
	providers := make([]*goose.Provider, len(sets))
	for i, set := range sets {
		p, err := db.provider(pool, set)
		if err != nil {
			return err
		}
		providers[i] = p
		have, want, err := p.GetVersions(ctx)
		if err != nil {
			return db.classify(fmt.Errorf("sqldb: migrations of %s: %w", set.Name, err))
		}
		if have > want {
			return fmt.Errorf("%w: %s is at version %d, this program knows %d", ErrNewer, set.Name, have, want)
		}
	}
	for i, set := range sets {
		done, err := providers[i].Up(ctx)
		if err != nil {
			return db.classify(fmt.Errorf("sqldb: migrations of %s: %w", set.Name, err))
		}
		for _, m := range done {
			db.opts.Logger.InfoContext(ctx, "sqldb: migrated", "set", set.Name, "version", m.Source.Version, "took", m.Duration)
		}
	}
	return nil
}

func (db *DB) provider(pool *sql.DB, set Migrations) (*goose.Provider, error) {
	if !setName.MatchString(set.Name) || set.FS == nil {
		return nil, fmt.Errorf("%w: migrations named %q", ErrConfig, set.Name)
	}
	dir, err := fs.Sub(set.FS, string(db.dialect))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	dialect := goose.DialectPostgres
	if db.dialect == SQLite {
		dialect = goose.DialectSQLite3
	}
	p, err := goose.NewProvider(dialect, pool, dir,
		goose.WithTableName("holdfast_migrations_"+set.Name),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return nil, fmt.Errorf("%w: migrations of %s: %w", ErrConfig, set.Name, err)
	}
	return p, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}
