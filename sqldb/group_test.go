package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

var errOdd = errors.New("odd")

type unit struct{ ID, N int64 }

// insert is a group that writes rows of t. Odd ids are refused; an id that is there already
// fails the statement, and so the transaction.
func insert(db *sqldb.DB, runs *atomic.Int64, before func()) *sqldb.Group[unit, int64] {
	return sqldb.NewGroup(db, func(ctx context.Context, tx *sqldb.Tx, in []unit) ([]sqldb.Outcome[int64], error) {
		runs.Add(1)
		before()
		out := make([]sqldb.Outcome[int64], len(in))
		var take sqldb.Rows
		for i, u := range in {
			if out[i].Value = u.ID * 10; u.ID%2 == 1 {
				out[i].Err = errOdd
				continue
			}
			take.Add(u.ID, u.N)
		}
		_, err := tx.Exec(ctx, `INSERT INTO t SELECT id, n FROM `+tx.List("$1", "id bigint", "n bigint"), take)
		return out, err
	})
}

func nothing() {}

// Callers that come together share transactions, each gets its own outcome, and each effect
// is there once.
func TestGroup(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		prepare(t, db)
		var runs atomic.Int64
		g := insert(db, &runs, nothing)
		const callers = 300
		var all sync.WaitGroup
		for i := range int64(callers) {
			all.Go(func() {
				got, err := g.Do(context.Background(), unit{i, i})
				if i%2 == 1 && !errors.Is(err, errOdd) || i%2 == 0 && (err != nil || got != i*10) {
					t.Errorf("%d: %d %v", i, got, err)
				}
			})
		}
		all.Wait()
		if n := number(t, db, `SELECT count(*) FROM t`); n != callers/2 {
			t.Errorf("%d rows", n)
		}
		if n := runs.Load(); n > callers/4 {
			t.Errorf("%d callers made %d transactions", callers, n)
		}
	})
}

// One member that fails the whole transaction does not take the others along.
func TestGroupWithABadMember(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		prepare(t, db)
		must(t, db, `INSERT INTO t VALUES (4, 0)`)
		gate := make(chan struct{})
		var runs atomic.Int64
		g := insert(db, &runs, sync.OnceFunc(func() { <-gate }))
		var all sync.WaitGroup
		var failed atomic.Int64
		for i := range int64(20) {
			all.Go(func() {
				if _, err := g.Do(context.Background(), unit{2 * i, 0}); err != nil {
					if _, ok := sqldb.Constraint(err); !ok || i != 2 {
						t.Errorf("%d: %v", i, err)
					}
					failed.Add(1)
				}
			})
		}
		close(gate)
		all.Wait()
		if n := number(t, db, `SELECT count(*) FROM t`); n != 20 || failed.Load() != 1 {
			t.Errorf("%d rows, %d failed", n, failed.Load())
		}
	})
}

// Who leaves while waiting has written nothing, and those that stay are served.
func TestGroupLeave(t *testing.T) {
	db := onSQLite(t, sqldb.Options{})
	entered, gate := make(chan struct{}), make(chan struct{})
	var runs atomic.Int64
	g := insert(db, &runs, sync.OnceFunc(func() { close(entered); <-gate }))
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := g.Do(context.Background(), unit{0, 0}); err != nil {
			t.Error(err)
		}
	})
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() {
		_, err := g.Do(ctx, unit{2, 0})
		left <- err
	}()
	all.Go(func() {
		if _, err := g.Do(context.Background(), unit{4, 0}); err != nil {
			t.Error(err)
		}
	})
	cancel()
	if err := <-left; !errors.Is(err, sqldb.ErrBusy) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	hurried, stop := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer stop()
	if _, err := g.Do(hurried, unit{6, 0}); !errors.Is(err, sqldb.ErrBusy) {
		t.Error(err)
	}
	close(gate)
	all.Wait()
	if n := number(t, db, `SELECT count(*) FROM t`); n != 2 {
		t.Errorf("%d rows", n)
	}
}

// One member whose time is over takes no other along.
func TestGroupWithAHurriedMember(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		prepare(t, db)
		const callers, hurried = 40, 4
		g := sqldb.NewGroup(db, func(ctx context.Context, tx *sqldb.Tx, in []unit) ([]sqldb.Outcome[int64], error) {
			time.Sleep(20 * time.Millisecond) // the others gather
			var list sqldb.Rows
			for _, u := range in {
				if list.Add(u.ID, u.N); u.ID < hurried {
					<-ctx.Done()
				}
			}
			_, err := tx.Exec(ctx, `INSERT INTO t SELECT id, n FROM `+tx.List("$1", "id bigint", "n bigint"), list)
			return make([]sqldb.Outcome[int64], len(in)), err
		})
		var all sync.WaitGroup
		for i := range int64(callers) {
			all.Go(func() {
				patience := 10 * time.Second
				if i < hurried {
					patience = 300 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				if _, err := g.Do(ctx, unit{i, 0}); (err != nil) != (i < hurried) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		all.Wait()
		if n := number(t, db, `SELECT count(*) FROM t`); n != callers-hurried {
			t.Errorf("%d rows", n)
		}
	})
}

func TestGroupPanics(t *testing.T) {
	db := onSQLite(t, sqldb.Options{})
	g := sqldb.NewGroup(db, func(_ context.Context, _ *sqldb.Tx, in []int) ([]sqldb.Outcome[int], error) {
		if in[0] == 7 {
			panic("seven")
		}
		return make([]sqldb.Outcome[int], len(in)), nil
	})
	func() {
		defer func() {
			if got := recover(); got != "seven" {
				t.Errorf("the caller got %v", got)
			}
		}()
		_, _ = g.Do(t.Context(), 7)
	}()
	if _, err := g.Do(t.Context(), 1); err != nil {
		t.Error("afterwards:", err)
	}
}

func TestGroupMistakes(t *testing.T) {
	db := onSQLite(t, sqldb.Options{})
	short := sqldb.NewGroup(db, func(context.Context, *sqldb.Tx, []int) ([]sqldb.Outcome[int], error) { return nil, nil })
	if _, err := short.Do(t.Context(), 1); !errors.Is(err, sqldb.ErrConfig) {
		t.Error(err)
	}
	err := db.Write(t.Context(), func(ctx context.Context, _ *sqldb.Tx) error {
		_, err := short.Do(ctx, 1)
		return err
	})
	if !errors.Is(err, sqldb.ErrConfig) {
		t.Error(err)
	}
}

func TestList(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		var list sqldb.Rows
		list.Add(`b"ü`, 1<<53, true, sqldb.Bytes{0, 255})
		list.Add("a", -1, false, sqldb.Bytes{})
		err := db.Read(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			for _, in := range []sqldb.Rows{list, nil} {
				rows, err := tx.Query(ctx, `SELECT name, n, on_it, raw FROM `+
					tx.List("$1", "name text", "n bigint", "on_it boolean", "raw bytea"), in)
				if err != nil {
					return err
				}
				defer rows.Close()
				var got []string
				for rows.Next() {
					var name string
					var n int64
					var on bool
					var raw []byte
					if err := rows.Scan(&name, &n, &on, &raw); err != nil {
						return err
					}
					got = append(got, fmt.Sprint(name, n, on, raw))
				}
				want := `[b"ü9007199254740992 true [0 255] a-1 false []]`
				if in == nil {
					want = "[]"
				}
				if fmt.Sprint(got) != want {
					t.Errorf("%v, want %v", got, want)
				}
				if err := rows.Err(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// JSON would replace what is not UTF-8, and two texts would become one.
func TestListRefusesWhatIsNotText(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		err := db.Read(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			var s string
			return tx.Row(ctx, `SELECT name FROM `+tx.List("$1", "name text"), sqldb.Rows{{"a\xff"}}).Scan(&s)
		})
		if !errors.Is(err, sqldb.ErrConfig) {
			t.Error(err)
		}
	})
}

// Waiting counts those whose transaction has not begun.
func TestGroupWaiting(t *testing.T) {
	db := onSQLite(t, sqldb.Options{})
	gate := make(chan struct{})
	var runs atomic.Int64
	g := insert(db, &runs, func() { <-gate })
	var all sync.WaitGroup
	enter := func(id int64) {
		all.Go(func() {
			if _, err := g.Do(context.Background(), unit{id, id}); err != nil {
				t.Error(err)
			}
		})
	}
	becomes := func(what string, ok func() bool) {
		for deadline := time.Now().Add(4 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("not within 4 s: %s; %d wait", what, g.Waiting())
				return
			}
		}
	}
	enter(0) // alone: whoever comes before its transaction has begun is taken along
	becomes("a transaction runs", func() bool { return runs.Load() == 1 })
	for id := range int64(3) {
		enter(2*id + 2)
	}
	becomes("three wait behind it", func() bool { return g.Waiting() == 3 })
	close(gate)
	all.Wait()
	if n := g.Waiting(); n != 0 {
		t.Errorf("%d wait for nothing", n)
	}
}
