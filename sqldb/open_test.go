package sqldb_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	notADatabase := filepath.Join(dir, "text")
	if err := os.WriteFile(notADatabase, []byte(strings.Repeat("no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url  string
		opts sqldb.Options
		want error
	}{
		{url: "", want: sqldb.ErrConfig},
		{url: "mysql://localhost/x", want: sqldb.ErrConfig},
		{url: dir + "/a.db", want: sqldb.ErrConfig},
		{url: "sqlite:", want: sqldb.ErrConfig},
		{url: "sqlite::memory:", want: sqldb.ErrConfig},
		{url: "sqlite://host/a.db", want: sqldb.ErrConfig},
		{url: "sqlite:" + dir + "/a.db?mode=ro", want: sqldb.ErrConfig},
		{url: "sqlite:" + dir + "/", want: sqldb.ErrConfig},
		{url: "sqlite:" + dir, want: sqldb.ErrConfig},
		{url: "sqlite:" + notADatabase, want: sqldb.ErrConfig},
		{url: "sqlite:" + notADatabase + "/a.db", want: sqldb.ErrConfig},
		{url: "postgres://u:secret@[/x", want: sqldb.ErrConfig},
		{url: "postgres:///x?host=" + dir, want: sqldb.ErrUnavailable},
		{url: "postgres://u:secret@127.0.0.1:1/x", want: sqldb.ErrUnavailable},
		{url: "sqlite:" + dir + "/b.db", opts: sqldb.Options{Timeout: time.Millisecond}, want: sqldb.ErrConfig},
		{url: "sqlite:" + dir + "/b.db", opts: sqldb.Options{MaxConns: -1}, want: sqldb.ErrConfig},
		{url: "postgres:///x", opts: sqldb.Options{MaxConns: 1001}, want: sqldb.ErrConfig},
	} {
		db, err := sqldb.Open(t.Context(), c.url, c.opts)
		if db != nil || !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.url, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
	// A refused file is not left locked.
	if err := os.WriteFile(notADatabase, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sqldbtest.Open(t, "sqlite:"+notADatabase, sqldb.Options{})
}

func TestOpenPostgresRefuses(t *testing.T) {
	url := sqldbtest.Shared(t).URL("no_such_database")
	if _, err := sqldb.Open(t.Context(), url, sqldb.Options{}); !errors.Is(err, sqldb.ErrConfig) {
		t.Error("a database that does not exist:", err)
	}
}

// The file's odd name must reach SQLite as it is, and nobody else may read the data.
func TestSQLiteFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "a b%20#&;ü'\"")
	path := filepath.Join(dir, "x y%41#.db")
	db := sqldbtest.Open(t, "sqlite:"+path, sqldb.Options{})
	prepare(t, db)
	for file, want := range map[string]os.FileMode{
		dir: 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600, path + ".lock": 0o600,
	} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want %v", file, info, err, want)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 2 { // the database and its lock: the log was merged
		t.Errorf("after Close: %v", entries)
	}
	sqldbtest.Open(t, "sqlite://"+path, sqldb.Options{}) // three slashes: the same file
}

func TestSQLiteRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	db := sqldbtest.Open(t, "sqlite:sub/relative.db", sqldb.Options{})
	prepare(t, db)
	if _, err := os.Stat("sub/relative.db"); err != nil {
		t.Error(err)
	}
}

// What the promise stands on, read back from the engine on the connections in use.
func TestSQLitePragmas(t *testing.T) {
	db := onSQLite(t, sqldb.Options{})
	checks := "0"
	if mutant.CheckOff {
		checks = "1"
	}
	for pragma, want := range map[string]string{
		"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "1000",
		"query_only": "0", "journal_size_limit": "67108864", "ignore_check_constraints": checks,
	} {
		write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
			var got string
			if err := tx.Row(ctx, "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
				t.Errorf("writer: %s = %s %v, want %s", pragma, got, err, want)
			}
			return nil
		})
	}
	for pragma, want := range map[string]string{"journal_mode": "wal", "query_only": "1"} {
		if got := text(t, db, "PRAGMA "+pragma); got != want {
			t.Errorf("reader: %s = %s, want %s", pragma, got, want)
		}
	}
	if err := tryExec(t.Context(), db, `INSERT INTO t VALUES (1, "n")`); err == nil {
		t.Error(`"n" is a name, as on PostgreSQL, not a string`)
	}
}

func TestPostgresSettings(t *testing.T) {
	url := sqldbtest.Shared(t).NewDatabase(t)
	db := sqldbtest.Open(t, url, sqldb.Options{Timeout: 10 * time.Second})
	for setting, want := range map[string]string{
		"statement_timeout": "9s", "lock_timeout": "1s", "idle_in_transaction_session_timeout": "12s",
		"transaction_isolation": "repeatable read", "transaction_read_only": "on",
		"synchronous_commit": "on", "fsync": "on", "application_name": "holdfast", "client_connection_check_interval": "100ms",
		"enable_seqscan": "off", "jit": "off",
	} {
		if got := text(t, db, "SHOW "+setting); got != want {
			t.Errorf("%s = %s, want %s", setting, got, want)
		}
	}
	write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
		var level string
		if err := tx.Row(ctx, "SHOW transaction_isolation").Scan(&level); err != nil || level != "read committed" {
			t.Error(level, err)
		}
		return nil
	})
	own := sqldbtest.Open(t, url+"&lock_timeout=3s&application_name=mine", sqldb.Options{})
	if got := text(t, own, "SHOW lock_timeout") + text(t, own, "SHOW application_name"); got != "3smine" {
		t.Error("the URL's own settings:", got)
	}
}

// A plan that reads a whole table is dear where such plans are unwanted, dear enough for PostgreSQL to compile it first: each
// connection would load a compiler, and spend a tenth of a second on a statement that takes a millisecond.
func TestNoStatementIsCompiled(t *testing.T) {
	db := onPostgres(t, sqldb.Options{})
	write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, "CREATE TABLE unindexed (n BIGINT)")
		return err
	})
	plan := text(t, db, "EXPLAIN (ANALYZE, FORMAT JSON) SELECT sum(n * n + n) FROM unindexed WHERE n % 3 = 1")
	if !strings.Contains(plan, `"Seq Scan"`) {
		t.Fatal("the table was not read as a whole:", plan)
	}
	if strings.Contains(plan, `"JIT"`) {
		t.Error("it was compiled:", plan)
	}
}

func TestPostgresConnectionsAreBounded(t *testing.T) {
	db := onPostgres(t, sqldb.Options{MaxConns: 2, Timeout: 500 * time.Millisecond})
	hold := make(chan struct{})
	held := make(chan struct{}, 2)
	for range 2 {
		go func() {
			_ = db.Read(context.Background(), func(context.Context, *sqldb.Tx) error {
				held <- struct{}{}
				<-hold
				return nil
			})
		}()
	}
	<-held
	<-held
	err := db.Ping(t.Context())
	if !errors.Is(err, sqldb.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error("a third:", err)
	}
	close(hold)
	if err := db.Ping(t.Context()); err != nil {
		t.Error("afterwards:", err)
	}
}
