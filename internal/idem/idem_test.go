package idem_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/internal/idem"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

func TestMain(m *testing.M) { sqldbtest.Main(m) }

func each(t *testing.T, fn func(t *testing.T, db *sqldb.DB)) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		if err := db.Migrate(t.Context(), sqldb.Core(), idem.Migrations()); err != nil {
			t.Fatal(err)
		}
		fn(t, db)
	})
}

// once does the work behind key: it counts, and answers with the count.
func once(ctx context.Context, db *sqldb.DB, key idem.Key, life time.Duration, work *atomic.Int64) (answer []byte, err error) {
	err = db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		begun, err := idem.Begin(ctx, tx, life, key)
		if err != nil || !begun[0].Fresh() {
			if err == nil {
				answer, err = begun[0].Answer, begun[0].Err
			}
			return err
		}
		answer = fmt.Appendf(nil, "answer %d", work.Add(1))
		return idem.Finish(ctx, tx, idem.Done{Key: key, Answer: answer})
	})
	return answer, err
}

func TestRepeatGetsTheSameBytes(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		var work atomic.Int64
		key := idem.Key{Scope: "shop\nPOST\n/holds\na", Request: []byte("ada")}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				got, err := once(t.Context(), db, key, time.Hour, &work)
				if err != nil || string(got) != "answer 1" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		wg.Wait()
		if got, err := idem.Lookup(t.Context(), db, key); err != nil || string(got) != "answer 1" {
			t.Errorf("lookup: %q, %v", got, err)
		}
	})
}

func TestOtherRequestIsRefused(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		var work atomic.Int64
		key := idem.Key{Scope: "s", Request: []byte("ada")}
		if _, err := once(t.Context(), db, key, time.Hour, &work); err != nil {
			t.Fatal(err)
		}
		other := idem.Key{Scope: "s", Request: []byte("bob")}
		if _, err := once(t.Context(), db, other, time.Hour, &work); !errors.Is(err, idem.ErrReused) {
			t.Errorf("begin: %v", err)
		}
		if _, err := idem.Lookup(t.Context(), db, other); !errors.Is(err, idem.ErrReused) {
			t.Errorf("lookup: %v", err)
		}
		if work.Load() != 1 {
			t.Errorf("work was done %d times", work.Load())
		}
	})
}

// A transaction that fails leaves no claim behind: the next one does the work.
func TestFailedWorkLeavesNoClaim(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		var work atomic.Int64
		key, boom := idem.Key{Scope: "s"}, errors.New("boom")
		err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			if _, err := idem.Begin(ctx, tx, time.Hour, key); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatal(err)
		}
		if got, err := idem.Lookup(t.Context(), db, key); got != nil || err != nil {
			t.Errorf("lookup: %q, %v", got, err)
		}
		if got, err := once(t.Context(), db, key, time.Hour, &work); err != nil || string(got) != "answer 1" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestExpiredKeyIsNew(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		var work atomic.Int64
		short, long := idem.Key{Scope: "short", Request: []byte("a")}, idem.Key{Scope: "long"}
		for _, k := range []struct {
			key  idem.Key
			life time.Duration
		}{{short, time.Microsecond}, {long, time.Hour}} {
			if _, err := once(t.Context(), db, k.key, k.life, &work); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := idem.Lookup(t.Context(), db, short); got != nil || err != nil {
			t.Errorf("lookup after expiry: %q, %v", got, err)
		}
		short.Request = []byte("b") // also another request may use it then
		if got, err := once(t.Context(), db, short, time.Microsecond, &work); err != nil || string(got) != "answer 3" {
			t.Errorf("got %q, %v", got, err)
		}
		if n, err := idem.Sweep(t.Context(), db, 100); n != 1 || err != nil {
			t.Errorf("swept %d, %v", n, err)
		}
		if got, err := idem.Lookup(t.Context(), db, long); string(got) != "answer 2" || err != nil {
			t.Errorf("what lives was swept: %q, %v", got, err)
		}
	})
}

// Many keys of one transaction: what is known, what is another request, what is there twice,
// and what is refused in the end.
func TestManyKeys(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		var work atomic.Int64
		a, b, c := idem.Key{Scope: "a"}, idem.Key{Scope: "b"}, idem.Key{Scope: "c"}
		if _, err := once(t.Context(), db, a, time.Hour, &work); err != nil {
			t.Fatal(err)
		}
		other := func(k idem.Key) idem.Key { k.Request = []byte("other"); return k }
		err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			got, err := idem.Begin(ctx, tx, time.Hour, c, other(a), b, b, other(b), a, a)
			if err != nil {
				return err
			}
			known := idem.Begun{Answer: []byte("answer 1"), Twin: -1}
			reused := idem.Begun{Err: idem.ErrReused, Twin: -1}
			want := []idem.Begun{{Twin: -1}, reused, {Twin: -1}, {Twin: 2}, reused, known, known}
			for i := range want {
				if string(got[i].Answer) != string(want[i].Answer) || !errors.Is(got[i].Err, want[i].Err) || got[i].Twin != want[i].Twin {
					t.Errorf("%d: %+v, want %+v", i, got[i], want[i])
				}
			}
			return idem.Finish(ctx, tx, idem.Done{Key: c}, idem.Done{Key: b, Answer: []byte("of b")})
		})
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]string{"a": "answer 1", "b": "of b", "c": ""} {
			if got, err := idem.Lookup(t.Context(), db, idem.Key{Scope: key}); string(got) != want || err != nil {
				t.Errorf("%s: %q %v", key, got, err)
			}
		}
	})
}
