// Package sqldbtest starts real databases for tests: a SQLite file, and a PostgreSQL
// server as a process of its own, without a port, in a temporary directory.
//
//	func TestMain(m *testing.M) { sqldbtest.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) { … })
//	}
//
// A machine without PostgreSQL skips those tests and says so; with CI=true they fail.
package sqldbtest

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// Each runs fn on every engine, on an empty database or schema, not yet migrated.
func Each(t *testing.T, fn func(t *testing.T, db *sqldb.DB)) {
	t.Helper()
	EachURL(t, func(t *testing.T, url string) { fn(t, Open(t, url, sqldb.Options{})) })
}

// EachURL is Each for tests that open the database themselves. A SQLite file can be
// opened once at a time.
func EachURL(t *testing.T, fn func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { fn(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { fn(t, Shared(t).NewSchema(t)) })
}

// SQLite is the URL of a file that does not exist yet.
func SQLite(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "test.db") }

// Open opens url and closes it when the test ends.
func Open(t testing.TB, url string, opts sqldb.Options) *sqldb.DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	db, err := sqldb.Open(ctx, url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}
