package sqldb_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(childMode) != "" {
		child() // this binary again, to be killed
		return
	}
	sqldbtest.Main(m)
}

// each runs fn on a migrated database of every engine that has a table t (id, n >= 0).
func each(t *testing.T, fn func(t *testing.T, db *sqldb.DB)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		prepare(t, db)
		fn(t, db)
	})
}

// onPostgres is each for what SQLite has not.
func onPostgres(t *testing.T, opts sqldb.Options) *sqldb.DB {
	t.Helper()
	db := sqldbtest.Open(t, sqldbtest.Shared(t).NewSchema(t), opts)
	prepare(t, db)
	return db
}

func onSQLite(t *testing.T, opts sqldb.Options) *sqldb.DB {
	t.Helper()
	db := sqldbtest.Open(t, sqldbtest.SQLite(t), opts)
	prepare(t, db)
	return db
}

func prepare(t *testing.T, db *sqldb.DB) {
	t.Helper()
	if err := db.Migrate(t.Context(), sqldb.Core()); err != nil {
		t.Fatal(err)
	}
	must(t, db, `CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT NOT NULL, CONSTRAINT n_not_negative CHECK (n >= 0))`)
}

// must runs one statement in a transaction of its own.
func must(t *testing.T, db *sqldb.DB, query string, args ...any) {
	t.Helper()
	if err := tryExec(t.Context(), db, query, args...); err != nil {
		t.Fatal(err)
	}
}

func tryExec(ctx context.Context, db *sqldb.DB, query string, args ...any) error {
	return db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	})
}

// number reads one integer.
func number(t *testing.T, db *sqldb.DB, query string, args ...any) (n int64) {
	t.Helper()
	err := db.Read(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		return tx.Row(ctx, query, args...).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// waitFor polls until cond holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for " + what)
		}
	}
}
