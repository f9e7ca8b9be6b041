package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

func publish(t *testing.T, db *sqldb.DB, topic string, payloads ...string) {
	t.Helper()
	write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
		for _, p := range payloads {
			if err := tx.Publish(ctx, topic, "k", []byte(p)); err != nil {
				return err
			}
		}
		return nil
	})
}

// reader returns what is new since it was last called.
type reader func() ([]string, error)

// follow is how events are meant to be read.
func follow(db *sqldb.DB, topic string, from sqldb.Cursor, limit int) reader {
	return func() ([]string, error) {
		events, err := db.Events(context.Background(), topic, from, limit)
		var payloads []string
		for _, e := range events {
			payloads, from = append(payloads, string(e.Payload)), e.Cursor
		}
		return payloads, err
	}
}

// followByID is how most outboxes are read, and wrong: ids are given when a row is
// written, and rows appear when they are committed.
func followByID(db *sqldb.DB, topic string) reader {
	var last int64
	return func() (payloads []string, err error) {
		err = db.Read(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
			rows, err := tx.Query(ctx, `SELECT id, payload FROM outbox WHERE topic = $1 AND id > $2 ORDER BY id`, topic, last)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var p []byte
				if err := rows.Scan(&last, &p); err != nil {
					return err
				}
				payloads = append(payloads, string(p))
			}
			return rows.Err()
		})
		return payloads, err
	}
}

// record is what the writers know: which event was committed, and when. Times are ticks
// of one counter, so "a ended before b began" is certain.
type record struct {
	clock atomic.Int64
	mu    sync.Mutex
	began map[string]int64
	ended map[string]int64
}

func newRecord() *record {
	return &record{began: map[string]int64{}, ended: map[string]int64{}}
}

func (r *record) committed(payload string, began int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began[payload], r.ended[payload] = began, r.clock.Add(1)
}

// check compares what a reader got with what was committed: every event once, none that
// was not committed, and none before one that had ended when it began.
func (r *record) check(got []string) error {
	seen := map[string]bool{}
	var latest int64 // the latest beginning among the events so far
	for _, p := range got {
		switch end, ok := r.ended[p]; {
		case !ok:
			return fmt.Errorf("%s was never committed", p)
		case seen[p]:
			return fmt.Errorf("%s came twice", p)
		case end < latest:
			return fmt.Errorf("%s came after an event that began when it had ended", p)
		}
		seen[p], latest = true, max(latest, r.began[p])
	}
	for p := range r.ended {
		if !seen[p] {
			return fmt.Errorf("%s was skipped", p)
		}
	}
	return nil
}

// Writers that begin and commit in any order, some rolling back; two readers follow
// while they work, with a small and a large page.
func TestEventsSkipNothing(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		const writers, each = 8, 25
		rec := newRecord()
		var working, reading sync.WaitGroup
		for w := range writers {
			working.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(w), 1))
				for i := range each {
					storm(t, db, rec, rnd, fmt.Sprintf("%d/%d", w, i))
				}
			})
		}
		done := make(chan struct{})
		for _, limit := range []int{3, 1000} {
			reading.Go(func() {
				got, err := drain(follow(db, "s", sqldb.Cursor{}, limit), done)
				if err = errors.Join(err, rec.check(got)); err != nil {
					t.Error(err)
				}
			})
		}
		working.Wait()
		close(done)
		reading.Wait()
		if len(rec.ended) < writers*each/2 {
			t.Errorf("only %d commits: the test proved nothing", len(rec.ended))
		}
	})
}

// storm makes one transaction with two events, waiting at random places.
func storm(t *testing.T, db *sqldb.DB, rec *record, rnd *rand.Rand, name string) {
	var began int64
	rollback := rnd.IntN(10) == 0
	pause := func() {
		if db.Dialect() == sqldb.PostgreSQL { // elsewhere others only wait for it
			time.Sleep(time.Duration(rnd.IntN(3000)) * time.Microsecond)
		}
	}
	err := db.Write(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
		began = rec.clock.Add(1)
		for _, part := range []string{"a", "b"} {
			pause()
			if err := tx.Publish(ctx, "s", "k", []byte(name+part)); err != nil {
				return err
			}
		}
		pause()
		if rollback {
			return errOwn
		}
		return nil
	})
	switch {
	case err == nil:
		rec.committed(name+"a", began)
		rec.committed(name+"b", began)
	case !errors.Is(err, errOwn):
		t.Error(err)
	}
}

// drain reads until done is closed and nothing more comes.
func drain(read reader, done chan struct{}) (all []string, err error) {
	for {
		last := false
		select {
		case <-done:
			last = true
		default:
		}
		got, err := read()
		if err != nil || last && len(got) == 0 {
			return all, err
		}
		all = append(all, got...)
	}
}

// The smallest history in which the order of ids is not the order of commits. The
// reader of Events stands it; a reader by id must fail the very same check, or the
// check is worth nothing.
func TestReadingByIDWouldSkip(t *testing.T) {
	db := onPostgres(t, sqldb.Options{})
	right, wrong := follow(db, "s", sqldb.Cursor{}, 100), followByID(db, "s")
	rec := newRecord()
	var gotRight, gotWrong []string
	read := func() {
		a, err1 := right()
		b, err2 := wrong()
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		gotRight, gotWrong = append(gotRight, a...), append(gotWrong, b...)
	}
	write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
		if err := tx.Publish(ctx, "s", "k", []byte("slow")); err != nil {
			return err
		}
		publish(t, db, "s", "quick") // begins later, commits earlier
		rec.committed("quick", 1)
		read()
		if len(gotRight) != 0 {
			t.Errorf("%v was shown while an older transaction could still publish", gotRight)
		}
		return nil
	})
	rec.committed("slow", 0)
	read()
	if err := rec.check(gotRight); err != nil {
		t.Error("by cursor:", err)
	}
	if err := rec.check(gotWrong); err == nil || !strings.Contains(err.Error(), "slow was skipped") {
		t.Error("by id the check must find the skip:", err, gotWrong)
	}
}

// Every interleaving of a few transactions that rapid can think of, with reads between.
func TestEventsInterleaved(t *testing.T) {
	db := onPostgres(t, sqldb.Options{})
	history := 0
	rapid.Check(t, func(r *rapid.T) {
		history++
		topic := fmt.Sprint("history", history)
		rec := newRecord()
		read := follow(db, topic, sqldb.Cursor{}, rapid.IntRange(1, 4).Draw(r, "limit"))
		var got []string
		more := func() (n int) {
			p, err := read()
			if err != nil {
				r.Fatal(err)
			}
			got = append(got, p...)
			return len(p)
		}
		open := map[int]*puppet{}
		for i := range rapid.IntRange(3, 20).Draw(r, "steps") {
			who := rapid.IntRange(0, 3).Draw(r, "who")
			p := open[who]
			switch what := rapid.SampledFrom([]string{"publish", "publish", "commit", "rollback", "read"}).Draw(r, "what"); {
			case what == "read":
				more()
			case what == "publish":
				if p == nil {
					p = newPuppet(db, rec)
					open[who] = p
				}
				p.publish(topic, fmt.Sprint("e", i))
			case p != nil:
				p.end(what == "commit")
				delete(open, who)
			}
		}
		for _, p := range open {
			p.end(true)
		}
		for more() > 0 {
		}
		if err := rec.check(got); err != nil {
			r.Fatal(err)
		}
	})
}

// puppet is a transaction that is led step by step.
type puppet struct {
	rec   *record
	steps chan func(ctx context.Context, tx *sqldb.Tx) error
	ack   chan struct{}
	done  chan error
	began int64
	wrote []string
}

func newPuppet(db *sqldb.DB, rec *record) *puppet {
	p := &puppet{rec: rec, steps: make(chan func(context.Context, *sqldb.Tx) error), ack: make(chan struct{}), done: make(chan error, 1)}
	p.began = rec.clock.Add(1)
	go func() {
		p.done <- db.Write(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
			for step := range p.steps {
				if err := step(ctx, tx); err != nil {
					return err
				}
				p.ack <- struct{}{}
			}
			return nil
		})
	}()
	return p
}

func (p *puppet) publish(topic, payload string) {
	p.wrote = append(p.wrote, payload)
	p.steps <- func(ctx context.Context, tx *sqldb.Tx) error { return tx.Publish(ctx, topic, "k", []byte(payload)) }
	<-p.ack
}

func (p *puppet) end(commit bool) {
	if !commit {
		p.steps <- func(context.Context, *sqldb.Tx) error { return errOwn }
		<-p.done
		return
	}
	close(p.steps)
	if <-p.done == nil {
		for _, payload := range p.wrote {
			p.rec.committed(payload, p.began)
		}
	}
}

func TestEventsPages(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		if c, err := db.LastCursor(ctx, "a"); err != nil || c != (sqldb.Cursor{}) {
			t.Error("of nothing:", c, err)
		}
		publish(t, db, "a", "1", "2")
		publish(t, db, "b", "other")
		last, err := db.LastCursor(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		publish(t, db, "a", "3", "")
		for _, c := range []struct {
			from  sqldb.Cursor
			limit int
			want  []string
		}{
			{sqldb.Cursor{}, 100, []string{"1", "2", "3", ""}},
			{sqldb.Cursor{}, 3, []string{"1", "2", "3"}},
			{sqldb.Cursor{}, -1, []string{"1"}},
			{last, 1 << 30, []string{"3", ""}},
		} {
			if got, err := follow(db, "a", c.from, c.limit)(); err != nil || !slices.Equal(got, c.want) {
				t.Errorf("from %s, %d: %v %v, want %v", c.from, c.limit, got, err, c.want)
			}
		}
		events, err := db.Events(ctx, "a", last, 1)
		if err != nil || events[0].Topic != "a" || events[0].Kind != "k" || time.Since(time.UnixMicro(events[0].At)).Abs() > time.Minute {
			t.Error(events, err)
		}
	})
}

func TestPublishIsBounded(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		long := strings.Repeat("x", 201)
		for _, c := range []struct {
			topic, kind string
			size        int
			ok          bool
		}{
			{"", "k", 0, false}, {"t", "", 0, false}, {long, "k", 0, false}, {"t", long, 0, false},
			{"t", "k", 1<<16 + 1, false}, {"t", "k", 1 << 16, true}, {long[1:], long[1:], 0, true},
		} {
			err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
				return tx.Publish(ctx, c.topic, c.kind, make([]byte, c.size))
			})
			if c.ok != (err == nil) || !c.ok && !errors.Is(err, sqldb.ErrConfig) {
				t.Errorf("%.10q %.10q %d: %v", c.topic, c.kind, c.size, err)
			}
		}
		write(t, db, func(ctx context.Context, tx *sqldb.Tx) error { return tx.Publish(ctx, "nil", "k", nil) })
	})
}

// Trimming takes the oldest, as many as it may; an id is never used again, so a cursor
// stays good when everything was trimmed.
func TestTrim(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		publish(t, db, "a", "1", "2", "3")
		last, _ := db.LastCursor(t.Context(), "a")
		for _, c := range []struct {
			older time.Duration
			limit int
			want  int64
		}{{time.Hour, 10, 0}, {-time.Hour, 2, 2}, {-time.Hour, -1, 0}, {-time.Hour, 10, 1}, {-time.Hour, 10, 0}} {
			if n, err := db.TrimEvents(t.Context(), c.older, c.limit); err != nil || n != c.want {
				t.Errorf("%+v: %d %v", c, n, err)
			}
		}
		publish(t, db, "a", "4")
		if got, err := follow(db, "a", last, 10)(); err != nil || !slices.Equal(got, []string{"4"}) {
			t.Error(got, err)
		}
	})
}

// A restore went back in time. Who read further than it must not wait until that time
// comes again.
func TestCursorOfALostFuture(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		publish(t, db, "a", "1")
		future, err := sqldb.ParseCursor("9000000000000000.9000000000000000")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := follow(db, "a", future, 10)(); err != nil || !slices.Equal(got, []string{"1"}) {
			t.Error(got, err)
		}
	})
}

// A dump restored into a cluster that has counted fewer transactions: Migrate moves
// positions on, so that old cursors go on where they were and nothing stalls.
func TestRestoreIntoAnotherCluster(t *testing.T) {
	old, fresh := sqldbtest.Postgres(t), sqldbtest.Postgres(t)
	dump, err := exec.LookPath(old.Program("pg_dump"))
	if err != nil {
		t.Skip("pg_dump is not installed")
	}
	source, target := old.NewDatabase(t), fresh.NewDatabase(t)
	db := sqldbtest.Open(t, source, sqldb.Options{})
	prepare(t, db)
	countUp(t, source, 20000)
	publish(t, db, "a", "1", "2")
	publish(t, db, "a", "3")
	cursor, err := db.LastCursor(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	publish(t, db, "a", "4")
	if out, err := exec.Command("sh", "-c", `"$1" "$2" | "$3" -q -v ON_ERROR_STOP=1 "$4"`,
		"sh", dump, source, fresh.Program("psql"), target).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	db = sqldbtest.Open(t, target, sqldb.Options{})
	if got, _ := follow(db, "a", sqldb.Cursor{}, 10)(); len(got) != 0 {
		t.Fatalf("%v: this cluster has counted as far as the old one; the test proves nothing", got)
	}
	for range 2 { // the second changes nothing
		if err := db.Migrate(t.Context(), sqldb.Core()); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, db, "a", "5")
	for _, c := range []struct {
		from sqldb.Cursor
		want []string
	}{{cursor, []string{"4", "5"}}, {sqldb.Cursor{}, []string{"1", "2", "3", "4", "5"}}} {
		if got, err := follow(db, "a", c.from, 10)(); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("from %s: %v %v, want %v", c.from, got, err, c.want)
		}
	}
}

// countUp lets the cluster count n transactions.
func countUp(t *testing.T, url string, n int) {
	t.Helper()
	pool, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	// Not in a transaction: the block commits in a loop.
	if _, err := pool.ExecContext(t.Context(), fmt.Sprintf(`DO $$ BEGIN
		FOR i IN 1..%d LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$`, n)); err != nil {
		t.Fatal(err)
	}
}

// An event that waits for an older transaction is late, and for how long can be seen.
func TestOutboxLag(t *testing.T) {
	db := onPostgres(t, sqldb.Options{})
	lag := func() time.Duration {
		t.Helper()
		d, err := db.OutboxLag(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	becomes := func(what string, ok func(time.Duration) bool) {
		t.Helper()
		for deadline := time.Now().Add(3 * time.Second); !ok(lag()); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("not within 3 s: ", what)
			}
		}
	}
	none := func(d time.Duration) bool { return d == 0 }
	publish(t, db, "s", "before")
	becomes("all is visible", none)
	write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
		if err := tx.Publish(ctx, "s", "k", []byte("slow")); err != nil {
			return err
		}
		publish(t, db, "s", "quick")
		becomes("an event waits, and the lag grows", func(d time.Duration) bool { return d > 20*time.Millisecond })
		return nil
	})
	becomes("the older transaction has ended", none)
}
