package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

// Two transactions lock two rows in opposite order. PostgreSQL ends one of them; Write
// runs it again, so both callers have success and each effect happened once.
func TestDeadlockIsRetried(t *testing.T) {
	// The deadlock must be noticed before a lock's timeout; deadlock_timeout is 1s.
	url := sqldbtest.Shared(t).NewDatabase(t) + "&lock_timeout=10s"
	db := sqldbtest.Open(t, url, sqldb.Options{Timeout: 20 * time.Second})
	prepare(t, db)
	must(t, db, `INSERT INTO t VALUES (1, 0), (2, 0)`)
	var both, done sync.WaitGroup
	both.Add(2)
	runs := make([]int, 2)
	callbacks := make([]int, 2)
	for i, order := range [][]int{{1, 2}, {2, 1}} {
		done.Go(func() {
			err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
				runs[i]++
				tx.AfterCommit(func() { callbacks[i]++ })
				if _, err := tx.Exec(ctx, `UPDATE t SET n = n + 1 WHERE id = $1`, order[0]); err != nil {
					return err
				}
				if runs[i] == 1 {
					both.Done()
					both.Wait() // each has its first row
				}
				_, err := tx.Exec(ctx, `UPDATE t SET n = n + 1 WHERE id = $1`, order[1])
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if n := number(t, db, `SELECT sum(n) FROM t`); n != 4 || runs[0]+runs[1] != 3 {
		t.Errorf("sum %d, want 4; runs %v, want 3 in all", n, runs)
	}
	if callbacks[0] != 1 || callbacks[1] != 1 {
		t.Errorf("callbacks of a run that failed have run: %v", callbacks)
	}
}

// A conflict that never ends is given up at the deadline, with a word that says so.
func TestRetriesAreBounded(t *testing.T) {
	db := onPostgres(t, sqldb.Options{Timeout: 300 * time.Millisecond})
	for _, swallow := range []bool{false, true} {
		runs := 0
		began := time.Now()
		err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			runs++
			_, err := tx.Exec(ctx, raise("40001"))
			if swallow {
				return fmt.Errorf("the cause is lost here")
			}
			return err
		})
		if took := time.Since(began); runs < 3 || took > 3*time.Second || !nothingCommitted(err) {
			t.Errorf("%d runs in %s: %v", runs, took, err)
		}
	}
}

func raise(code string) string {
	return fmt.Sprintf(`DO $$ BEGIN RAISE EXCEPTION 'raised' USING ERRCODE = '%s'; END $$`, code)
}

// What the server says, by its code, and whether it was tried again.
func TestPostgresCodes(t *testing.T) {
	db := onPostgres(t, sqldb.Options{Timeout: 500 * time.Millisecond})
	for code, want := range map[string]error{
		"55P03": sqldb.ErrBusy, "57014": sqldb.ErrBusy, "40001": sqldb.ErrBusy, "40P01": sqldb.ErrBusy,
		"53100": sqldb.ErrFull, "53200": sqldb.ErrUnavailable, "53300": sqldb.ErrUnavailable,
		"57P01": sqldb.ErrUnavailable, "25006": sqldb.ErrUnavailable, "08006": sqldb.ErrUnavailable,
		"58030": sqldb.ErrUnavailable, "22012": nil, "P0001": nil, "42601": nil,
	} {
		runs := 0
		err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			runs++
			_, err := tx.Exec(ctx, raise(code))
			return err
		})
		if want == nil && (nothingCommitted(err) || err == nil) || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", code, err, want)
		}
		if again := runs > 1; again != (code == "40001" || code == "40P01") {
			t.Errorf("%s ran %d times", code, runs)
		}
	}
}

func TestLockTimeout(t *testing.T) {
	db := onPostgres(t, sqldb.Options{})
	must(t, db, `INSERT INTO t VALUES (1, 0)`)
	write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE t SET n = 1`); err != nil {
			return err
		}
		began := time.Now()
		err := tryExec(t.Context(), db, `UPDATE t SET n = 2`)
		if took := time.Since(began); !errors.Is(err, sqldb.ErrBusy) || took < 900*time.Millisecond || took > 3*time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		return nil
	})
	if n := number(t, db, `SELECT n FROM t`); n != 1 {
		t.Errorf("n = %d", n)
	}
}

// The server ends a slow statement itself: the answer is a clear no, and the connection
// lives on.
func TestStatementTimeout(t *testing.T) {
	db := onPostgres(t, sqldb.Options{Timeout: time.Second, MaxConns: 1})
	pid := number(t, db, `SELECT pg_backend_pid()`)
	err := tryExec(t.Context(), db, `SELECT pg_sleep(30)`)
	if !errors.Is(err, sqldb.ErrBusy) || errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if again := number(t, db, `SELECT pg_backend_pid()`); again != pid {
		t.Error("the connection was given up")
	}
}

// A transaction that forgets itself does not hold its locks for ever, although its
// program still runs.
func TestIdleTransactionIsEnded(t *testing.T) {
	url := sqldbtest.Shared(t).NewDatabase(t) + "&idle_in_transaction_session_timeout=100ms"
	db := sqldbtest.Open(t, url, sqldb.Options{})
	prepare(t, db)
	watch := sqldbtest.Open(t, url, sqldb.Options{})
	err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		var pid int
		if err := tx.Row(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
			return err
		}
		waitFor(t, "the server to end the session", func() bool {
			return number(t, watch, `SELECT count(*) FROM pg_stat_activity WHERE pid = $1`, pid) == 0
		})
		return nil
	})
	if !nothingCommitted(err) {
		t.Error(err)
	}
}

// Writers of SQLite queue in this process, until the caller's deadline and not longer.
func TestSQLiteWriterQueue(t *testing.T) {
	db := onSQLite(t, sqldb.Options{})
	write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := tryExec(short, db, `INSERT INTO t VALUES (1, 1)`)
		if !errors.Is(err, sqldb.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if number(t, db, `SELECT count(*) FROM t`) != 0 { // readers do not queue
			t.Error("what was refused is there")
		}
		return nil
	})
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() { must(t, db, `INSERT INTO t VALUES ($1, 1)`, i) })
	}
	all.Wait()
	if n := number(t, db, `SELECT count(*) FROM t`); n != 50 {
		t.Errorf("%d of 50 writers got through", n)
	}
}

// Somebody else's program (a shell, a backup) has the file: SQLITE_BUSY is tried again
// until the deadline.
func TestSQLiteForeignWriter(t *testing.T) {
	url := sqldbtest.SQLite(t)
	db := sqldbtest.Open(t, url, sqldb.Options{Timeout: 2 * time.Second})
	prepare(t, db)
	shell := foreign(t, url)
	if _, err := shell.ExecContext(t.Context(), `BEGIN IMMEDIATE`); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := tryExec(t.Context(), db, `INSERT INTO t VALUES (1, 1)`); !errors.Is(err, sqldb.ErrBusy) {
		t.Error(err)
	}
	if took := time.Since(began); took < 1500*time.Millisecond || took > 5*time.Second {
		t.Errorf("gave up after %s", took)
	}
	result := make(chan error)
	go func() { result <- tryExec(context.Background(), db, `INSERT INTO t VALUES (1, 1)`) }()
	if _, err := shell.ExecContext(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Error("when the other had left:", err)
	}
}

func TestSQLiteFull(t *testing.T) {
	db := onSQLite(t, sqldb.Options{})
	err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, `PRAGMA max_page_count = 1`); err != nil { // at least what it has
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO outbox (topic, kind, payload, at) VALUES ('a', 'b', zeroblob(1000000), 0)`)
		return err
	})
	if !errors.Is(err, sqldb.ErrFull) {
		t.Error(err)
	}
	if n := number(t, db, `SELECT count(*) FROM outbox`); n != 0 {
		t.Error("written all the same")
	}
}

func TestNoConnectionsLeft(t *testing.T) {
	server := sqldbtest.Postgres(t, "max_connections = 6", "superuser_reserved_connections = 0", "max_wal_senders = 0")
	url := server.URL("postgres")
	greedy, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = greedy.Close() })
	waitFor(t, "the server to be full", func() bool {
		_, err := greedy.Conn(t.Context()) // kept: never closed before the pool is
		var refused *pgconn.PgError
		return errors.As(err, &refused) && refused.Code == "53300" // too_many_connections
	})
	db, err := sqldb.Open(t.Context(), url, sqldb.Options{Timeout: time.Second})
	if !errors.Is(err, sqldb.ErrUnavailable) {
		t.Error(err)
	}
	if err == nil {
		_ = db.Close()
	}
}
