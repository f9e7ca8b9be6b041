package sqldb_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

// set is a package's migrations: one file for each statement, the same on both engines.
func set(name string, statements ...string) sqldb.Migrations {
	files := fstest.MapFS{}
	for i, s := range statements {
		for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
			files[fmt.Sprintf("%s/%05d_step.sql", d, i+1)] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + s + "\n")}
		}
	}
	return sqldb.Migrations{Name: name, FS: files}
}

const (
	makeA = `CREATE TABLE a (n BIGINT NOT NULL DEFAULT 0);`
	makeB = `CREATE TABLE b (n BIGINT); INSERT INTO a (n) VALUES (holdfast_now());`
)

func TestMigrate(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		for i, s := range []sqldb.Migrations{set("x", makeA), set("x", makeA), set("x", makeA, makeB), set("x", makeA, makeB)} {
			if err := db.Migrate(t.Context(), sqldb.Core(), s); err != nil {
				t.Fatal(i, err)
			}
		}
		if n := number(t, db, `SELECT count(*) FROM a WHERE n > 0`); n != 1 {
			t.Errorf("the second step ran %d times", n)
		}
		if n := number(t, db, `SELECT max(version_id) FROM holdfast_migrations_x`); n != 2 {
			t.Errorf("version %d", n)
		}
	})
}

// An old program on a new database must not touch it, not even what it knows better.
func TestMigrateRefusesNewer(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		if err := db.Migrate(t.Context(), sqldb.Core(), set("x", makeA, makeB)); err != nil {
			t.Fatal(err)
		}
		err := db.Migrate(t.Context(), sqldb.Core(), set("y", `CREATE TABLE y (n BIGINT);`), set("x", makeA))
		if !errors.Is(err, sqldb.ErrNewer) || !strings.Contains(err.Error(), "x is at version 2") {
			t.Error(err)
		}
		if err := tryExec(t.Context(), db, `INSERT INTO y VALUES (1)`); err == nil {
			t.Error("y was created beside a newer x")
		}
	})
}

// A step is applied as a whole or not at all, and the next start tries it again.
func TestMigrateBrokenStep(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		broken := `CREATE TABLE b (n BIGINT); INSERT INTO nowhere VALUES (1);`
		if err := db.Migrate(t.Context(), sqldb.Core(), set("x", makeA, broken)); err == nil || nothingCommitted(err) {
			t.Error(err)
		}
		if err := tryExec(t.Context(), db, `INSERT INTO b VALUES (1)`); err == nil {
			t.Error("half of a step is there")
		}
		if err := db.Migrate(t.Context(), sqldb.Core(), set("x", makeA, makeB)); err != nil {
			t.Error(err)
		}
	})
}

func TestMigrateRefusesBadSets(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		for _, bad := range []sqldb.Migrations{
			set("", makeA), set("X", makeA), set("a-b", makeA), set("a; DROP TABLE t", makeA), set("1a", makeA),
			set(strings.Repeat("a", 31), makeA), {Name: "x"}, {Name: "x", FS: fstest.MapFS{}}, set("x"),
			{Name: "x", FS: fstest.MapFS{"sqlite/one.sql": {}, "postgres/one.sql": {}}},
		} {
			if err := db.Migrate(t.Context(), bad); !errors.Is(err, sqldb.ErrConfig) {
				t.Errorf("%q: %v", bad.Name, err)
			}
		}
	})
}

// The library that applies the steps must not write to our users' logs; we say it, once.
func TestMigrateLogs(t *testing.T) {
	var std, own bytes.Buffer
	defer log.SetOutput(log.Writer())
	log.SetOutput(&std)
	sqldbtest.EachURL(t, func(t *testing.T, url string) {
		std.Reset()
		own.Reset()
		db := sqldbtest.Open(t, url, sqldb.Options{Logger: slog.New(slog.NewTextHandler(&own, nil))})
		for range 2 {
			if err := db.Migrate(t.Context(), sqldb.Core(), set("x", makeA)); err != nil {
				t.Fatal(err)
			}
		}
		if std.Len() > 0 || strings.Count(own.String(), "\n") != 2 || !strings.Contains(own.String(), "set=x version=1") {
			t.Errorf("standard log %q, own log %q", &std, &own)
		}
	})
}

// Eight servers start at once on an empty database, each with its own connections.
func TestMigrateTogether(t *testing.T) {
	url := sqldbtest.Shared(t).NewDatabase(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			db, err := sqldb.Open(context.Background(), url, sqldb.Options{MaxConns: 2})
			if err != nil {
				t.Error(err)
				return
			}
			// The middle step is slow enough for the others to arrive.
			err = db.Migrate(context.Background(), sqldb.Core(), set("x", makeA, `SELECT pg_sleep(0.1);`, makeB))
			if err := errors.Join(err, db.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	db := sqldbtest.Open(t, url, sqldb.Options{})
	if n := number(t, db, `SELECT count(*) FROM a`); n != 1 {
		t.Errorf("the last step ran %d times", n)
	}
}

// Two schemas of one database are two databases: neither waits for the other, and each
// has its own tables, functions and versions.
func TestMigrateSchemas(t *testing.T) {
	url := sqldbtest.Shared(t).NewDatabase(t)
	admin := sqldbtest.Open(t, url, sqldb.Options{})
	must(t, admin, `CREATE SCHEMA one`)
	must(t, admin, `CREATE SCHEMA two`)
	one := sqldbtest.Open(t, url+"&search_path=one", sqldb.Options{})
	two := sqldbtest.Open(t, url+"&search_path=two", sqldb.Options{})
	release := migrating(t, url, "one")
	if err := two.Migrate(t.Context(), sqldb.Core(), set("x", makeA)); err != nil {
		t.Error("while one is being migrated:", err)
	}
	release()
	if err := one.Migrate(t.Context(), sqldb.Core(), set("x", makeA, makeB)); err != nil {
		t.Error(err)
	}
	publish(t, one, "a", "1")
	if got, err := follow(two, "a", sqldb.Cursor{}, 10)(); err != nil || len(got) != 0 {
		t.Error("two sees what happens in one:", got, err)
	}
	if n := number(t, admin, `SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`); n != 0 {
		t.Errorf("%d tables outside of the schemas", n)
	}
	none := sqldbtest.Open(t, url+"&search_path=nowhere", sqldb.Options{})
	if err := none.Migrate(t.Context(), sqldb.Core()); !errors.Is(err, sqldb.ErrConfig) {
		t.Error("a schema that does not exist:", err)
	}
}

// Whoever waits for another program's migration waits no longer than its context, and
// goes on when the other has died.
func TestMigrateWaits(t *testing.T) {
	url := sqldbtest.Shared(t).NewDatabase(t)
	db := sqldbtest.Open(t, url, sqldb.Options{})
	release := migrating(t, url, "public")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // long enough to dial on a busy machine
	defer cancel()
	err := db.Migrate(ctx, sqldb.Core())
	if !errors.Is(err, sqldb.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "public") {
		t.Error(err)
	}
	result := make(chan error)
	go func() { result <- db.Migrate(context.Background(), sqldb.Core()) }()
	release()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// migrating takes the lock of a schema's migration as another program would, and gives
// it back by dying.
func migrating(t *testing.T, url, schema string) (release func()) {
	t.Helper()
	pool, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Close() })
	tx, err := pool.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if err := tx.QueryRowContext(t.Context(), `SELECT pg_backend_pid() FROM (SELECT
		pg_advisory_xact_lock(hashtext('holdfast migrate'), hashtext($1))) AS l`, schema).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return func() {
		_, err := pool.ExecContext(t.Context(), `SELECT pg_terminate_backend($1)`, pid)
		_ = tx.Rollback()
		if err != nil {
			t.Error(err)
		}
	}
}

func TestCoreHasBothEngines(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		if files, err := fs.Glob(sqldb.Core().FS, string(d)+"/*.sql"); err != nil || len(files) == 0 {
			t.Error(d, files, err)
		}
	}
}
