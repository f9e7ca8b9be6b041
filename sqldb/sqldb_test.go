package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
)

type fn = func(ctx context.Context, tx *sqldb.Tx) error

var errOwn = errors.New("the caller's own")

// conformance is what both engines do alike. Each case gets table t with rows 1 and 2.
var conformance = []struct {
	name, why string
	run       func(t *testing.T, db *sqldb.DB)
}{
	{"commit", "nil means written", func(t *testing.T, db *sqldb.DB) {
		must(t, db, `UPDATE t SET n = 7 WHERE id = 1`)
		if n := number(t, db, `SELECT n FROM t WHERE id = 1`); n != 7 {
			t.Errorf("n = %d", n)
		}
	}},
	{"affected", "conditional updates are decided by the count of rows", func(t *testing.T, db *sqldb.DB) {
		write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
			for id, want := range map[int]int64{1: 1, 99: 0} {
				if n, err := tx.Exec(ctx, `UPDATE t SET n = n + 1 WHERE id = $1`, id); err != nil || n != want {
					t.Errorf("id %d: %d rows, %v", id, n, err)
				}
			}
			return nil
		})
	}},
	{"rollback", "an error means not written, and is the caller's own", func(t *testing.T, db *sqldb.DB) {
		err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE t SET n = 7`)
			return errors.Join(err, errOwn)
		})
		if !errors.Is(err, errOwn) || number(t, db, `SELECT sum(n) FROM t`) != 0 {
			t.Error(err)
		}
	}},
	{"panic", "a panic is no commit, and the writer is free again", func(t *testing.T, db *sqldb.DB) {
		func() {
			defer func() {
				if r := recover(); r != "oh" {
					t.Errorf("recovered %v", r)
				}
			}()
			_ = db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
				_, _ = tx.Exec(ctx, `UPDATE t SET n = 7`)
				panic("oh")
			})
		}()
		if n := number(t, db, `SELECT sum(n) FROM t`); n != 0 {
			t.Errorf("sum = %d", n)
		}
		must(t, db, `UPDATE t SET n = 1`)
	}},
	{"after commit", "in order, once, only after a commit, free to use the database", func(t *testing.T, db *sqldb.DB) {
		var ran []int
		write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
			tx.AfterCommit(func() { ran = append(ran, int(number(t, db, `SELECT n FROM t WHERE id = 1`))) })
			tx.AfterCommit(func() { ran = append(ran, 2) })
			_, err := tx.Exec(ctx, `UPDATE t SET n = 1`)
			return err
		})
		_ = db.Write(t.Context(), func(_ context.Context, tx *sqldb.Tx) error {
			tx.AfterCommit(func() { ran = append(ran, 3) })
			return errOwn
		})
		if !slices.Equal(ran, []int{1, 2}) {
			t.Error(ran)
		}
	}},
	{"read only", "a read cannot write by mistake", func(t *testing.T, db *sqldb.DB) {
		err := db.Read(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE t SET n = 7`)
			return err
		})
		if err == nil || number(t, db, `SELECT sum(n) FROM t`) != 0 {
			t.Error(err)
		}
	}},
	{"snapshot", "two statements of a read see the same state", func(t *testing.T, db *sqldb.DB) {
		err := db.Read(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			var before, after int64
			if err := tx.Row(ctx, `SELECT sum(n) FROM t`).Scan(&before); err != nil {
				return err
			}
			must(t, db, `UPDATE t SET n = 7`)
			err := tx.Row(ctx, `SELECT sum(n) FROM t`).Scan(&after)
			if before != after {
				t.Errorf("%d, then %d", before, after)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}},
	{"failed statement", "SQLite could go on; then code that was tested there would fail on PostgreSQL", func(t *testing.T, db *sqldb.DB) {
		err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO t VALUES (1, 0)`)
			if _, ok := sqldb.Constraint(err); !ok {
				t.Error("first:", err)
			}
			if _, err := tx.Exec(ctx, `UPDATE t SET n = 7`); err == nil {
				t.Error("a second statement ran")
			}
			if _, err := tx.Query(ctx, `SELECT 1`); err == nil {
				t.Error("a query ran")
			}
			var one int
			if err := tx.Row(ctx, `SELECT 1`).Scan(&one); err == nil {
				t.Error("a row was read")
			}
			return nil // the caller forgot
		})
		if _, ok := sqldb.Constraint(err); !ok || number(t, db, `SELECT sum(n) FROM t`) != 0 {
			t.Error(err)
		}
	}},
	{"own error after a failed statement", "a domain's error may replace the database's", func(t *testing.T, db *sqldb.DB) {
		err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO t VALUES (1, 0)`); err == nil {
				t.Error("inserted twice")
			}
			return errOwn
		})
		if !errors.Is(err, errOwn) {
			t.Error(err)
		}
	}},
	{"no rows", "an empty answer fails no transaction", func(t *testing.T, db *sqldb.DB) {
		write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
			var n int
			if err := tx.Row(ctx, `SELECT n FROM t WHERE id = 99`).Scan(&n); !errors.Is(err, sql.ErrNoRows) {
				t.Error(err)
			}
			_, err := tx.Exec(ctx, `UPDATE t SET n = 7`)
			return err
		})
	}},
	{"nested", "a transaction inside another would wait for itself", func(t *testing.T, db *sqldb.DB) {
		write(t, db, func(ctx context.Context, _ *sqldb.Tx) error {
			nothing := func(context.Context, *sqldb.Tx) error { return nil }
			for _, err := range []error{db.Write(ctx, nothing), db.Read(ctx, nothing)} {
				if !errors.Is(err, sqldb.ErrConfig) {
					t.Error(err)
				}
			}
			return nil
		})
	}},
	{"rows left open", "a forgotten Close must not keep the connection", func(t *testing.T, db *sqldb.DB) {
		for range 40 {
			write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
				rows, err := tx.Query(ctx, `SELECT id FROM t`)
				if err == nil {
					rows.Next()
				}
				return err
			})
		}
	}},
	{"canceled", "a caller that left writes nothing, and is told by its own error too", func(t *testing.T, db *sqldb.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		err := db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE t SET n = 7`)
			cancel()
			return err
		})
		if !errors.Is(err, context.Canceled) || !nothingCommitted(err) || number(t, db, `SELECT sum(n) FROM t`) != 0 {
			t.Error(err)
		}
		if err := tryExec(ctx, db, `UPDATE t SET n = 7`); !errors.Is(err, context.Canceled) || !nothingCommitted(err) {
			t.Error(err)
		}
	}},
	{"deadline", "the caller's deadline holds while a statement runs", func(t *testing.T, db *sqldb.DB) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := tryExec(ctx, db, `WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)
			INSERT INTO t SELECT x + 10, 0 FROM c WHERE x < 0`)
		if !errors.Is(err, context.DeadlineExceeded) || !nothingCommitted(err) || time.Since(began) > 2*time.Second {
			t.Error(time.Since(began), err)
		}
		must(t, db, `UPDATE t SET n = 1`)
	}},
	{"closed", "after Close every call says so, and a second Close what the first said", func(t *testing.T, db *sqldb.DB) {
		if err := errors.Join(db.Close(), db.Close()); err != nil {
			t.Error(err)
		}
		for _, err := range []error{tryExec(t.Context(), db, `UPDATE t SET n = 7`), db.Ping(t.Context()), db.Migrate(t.Context())} {
			if !errors.Is(err, sqldb.ErrUnavailable) {
				t.Error(err)
			}
		}
	}},
}

func write(t *testing.T, db *sqldb.DB, f fn) {
	t.Helper()
	if err := db.Write(t.Context(), f); err != nil {
		t.Error(err)
	}
}

// nothingCommitted: the error is one of those that promise it.
func nothingCommitted(err error) bool {
	return (errors.Is(err, sqldb.ErrUnavailable) || errors.Is(err, sqldb.ErrBusy) || errors.Is(err, sqldb.ErrFull)) &&
		!errors.Is(err, sqldb.ErrOutcomeUnknown)
}

func TestConformance(t *testing.T) {
	for _, c := range conformance {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, db *sqldb.DB) {
				must(t, db, `INSERT INTO t VALUES (1, 0), (2, 0)`)
				c.run(t, db)
				if t.Failed() {
					t.Log("why it matters:", c.why)
				}
			})
		})
	}
}

// Statements are written once: the same placeholders, types and constraint names.
func TestOneSQL(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		must(t, db, `CREATE TABLE v (id BIGINT PRIMARY KEY, yes BOOLEAN NOT NULL, b `+
			map[sqldb.Dialect]string{sqldb.SQLite: "BLOB", sqldb.PostgreSQL: "BYTEA"}[db.Dialect()]+`, s TEXT, n BIGINT)`)
		const big = 1<<53 - 1
		write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
			// $2 twice, out of order, beside strings, names and comments that look alike
			_, err := tx.Exec(ctx, `INSERT INTO v (id, s, yes, b, n) -- $9
				VALUES ($5, '$1 it''s $2', $2, $3, $1), ($4, NULL, NOT $2, NULL, $1) /* $8 */`,
				big, true, []byte{0, 1, 255}, 11, 10)
			return err
		})
		var yes, no bool
		var b, null []byte
		var s string
		var n int64
		err := db.Read(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			return errors.Join(
				tx.Row(ctx, `SELECT yes, b, s, n FROM v WHERE id = $1`, 10).Scan(&yes, &b, &s, &n),
				tx.Row(ctx, `SELECT yes, b FROM v WHERE id = $1 AND NOT yes`, 11).Scan(&no, &null))
		})
		if err != nil || !yes || no || string(b) != "\x00\x01\xff" || null != nil || s != "$1 it's $2" || n != big {
			t.Error(yes, no, b, null, s, n, err)
		}
	})
}

func TestMorePlaceholdersThanNine(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		got := number(t, db, `SELECT n * 1000 + m * 100 + b * 10 + a FROM (SELECT $1 + 0 AS a, $2 + 0 AS b,
			$10 + 0 AS m, $11 + 0 AS n, $3 + 0 + $4 + $5 + $6 + $7 + $8 + $9 AS rest) AS x`,
			1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 4)
		if got != 4321 {
			t.Errorf("got %d", got)
		}
	})
}

func TestConstraintNames(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		lite := db.Dialect() == sqldb.SQLite
		must(t, db, `CREATE TABLE u (id BIGINT PRIMARY KEY, a TEXT, b TEXT, r BIGINT REFERENCES t (id),
			CONSTRAINT u_pair UNIQUE (a, b))`)
		must(t, db, `INSERT INTO u VALUES (1, 'x', 'y', NULL)`)
		trigger(t, db)
		for _, c := range []struct {
			query, postgres, sqlite string
			ok                      bool
		}{
			{`INSERT INTO t VALUES (1, -1)`, "n_not_negative", "n_not_negative", true},
			{`INSERT INTO u VALUES (1, 'p', 'q', NULL)`, "u_pkey", "u.id", true},
			{`INSERT INTO u VALUES (2, 'x', 'y', NULL)`, "u_pair", "u.a, u.b", true},
			{`UPDATE u SET a = 'back'`, "u_forward_only", "u_forward_only", true},
			{`INSERT INTO u VALUES (3, 'p', 'q', 99)`, "", "", false}, // a foreign key is a mistake, not an answer
			{`INSERT INTO t VALUES (1, NULL)`, "", "", false},
			{`INSERT INTO nowhere VALUES (1)`, "", "", false},
		} {
			want := c.postgres
			if lite {
				want = c.sqlite
			}
			err := tryExec(t.Context(), db, c.query)
			if name, ok := sqldb.Constraint(err); err == nil || name != want || ok != c.ok {
				t.Errorf("%s: %q %t, want %q: %v", c.query, name, ok, want, err)
			}
			if nothingCommitted(err) || errors.Is(err, sqldb.ErrOutcomeUnknown) {
				t.Errorf("%s: a refusal is no failure of the database: %v", c.query, err)
			}
		}
	})
	if _, ok := sqldb.Constraint(errOwn); ok {
		t.Error("an error of the caller's own names a constraint")
	}
}

// trigger refuses an update of u to 'back' in the way that reads alike on both engines.
func trigger(t *testing.T, db *sqldb.DB) {
	if db.Dialect() == sqldb.SQLite {
		must(t, db, `CREATE TRIGGER u_forward BEFORE UPDATE ON u WHEN NEW.a = 'back'
			BEGIN SELECT RAISE(ABORT, 'u_forward_only'); END`)
		return
	}
	must(t, db, `CREATE FUNCTION u_forward() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.a = 'back' THEN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation', CONSTRAINT = 'u_forward_only'; END IF;
		RETURN NEW; END $$`)
	must(t, db, `CREATE TRIGGER u_forward BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION u_forward()`)
}

// The engine's clock moves between statements and within a transaction, and a sweep for
// what is due finds it by the index.
func TestNow(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
			var a, b int64
			if err := tx.Row(ctx, `SELECT holdfast_now()`).Scan(&a); err != nil {
				return err
			}
			if d := time.Since(time.UnixMicro(a)); d < -time.Second || d > time.Minute {
				t.Errorf("the clock is %s behind", d)
			}
			for deadline := time.Now().Add(10 * time.Second); b <= a && time.Now().Before(deadline); {
				if err := tx.Row(ctx, `SELECT holdfast_now()`).Scan(&b); err != nil {
					return err
				}
			}
			if b <= a {
				t.Error("the clock stands still in a transaction")
			}
			return nil
		})
		explain := `EXPLAIN QUERY PLAN `
		if db.Dialect() == sqldb.PostgreSQL {
			explain = `EXPLAIN (FORMAT JSON) `
			must(t, db, `INSERT INTO outbox (topic, kind, payload, at) SELECT 'a', 'b', '', i FROM generate_series(1, 5000) i`)
			must(t, db, `ANALYZE outbox`)
		}
		if plan := text(t, db, explain+`SELECT id FROM outbox WHERE at < holdfast_now() - 1800000000000000 ORDER BY at LIMIT 10`); !containsAny(plan, "outbox_trim") {
			t.Error("not by the index:", plan)
		}
	})
}
