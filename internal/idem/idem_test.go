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
		answer, err = idem.Begin(ctx, tx, key, life)
		if err != nil || answer != nil {
			return err
		}
		answer = fmt.Appendf(nil, "answer %d", work.Add(1))
		return idem.Finish(ctx, tx, key, answer)
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
			if _, err := idem.Begin(ctx, tx, key, time.Hour); err != nil {
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
