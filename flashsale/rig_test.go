package flashsale

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/internal/idem"
	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(runner{m}, append(storetest.Lingering(), goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))...)
}

// runner stops the shared database server before leaks are looked for.
type runner struct{ m *testing.M }

func (r runner) Run() int { return sqldbtest.Run(r.m.Run) }

// rig is a sale's surroundings: one store, one database, and any number of Sales on them.
type rig struct {
	*testing.T
	store *store.Store
	db    *sqldb.DB
	keys  int
}

// everywhere runs a test on every store with every database.
func everywhere(t *testing.T, fn func(r *rig)) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
			t.Parallel() // most of it is waiting
			fn(newRig(t, st, db))
		})
	})
}

// pair runs a test on the embedded engines, and on Redis with PostgreSQL.
func pair(t *testing.T, fn func(r *rig)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel() // most of it is waiting
		fn(newRig(t, openStore(t, "mem:"), sqldbtest.Open(t, sqldbtest.SQLite(t), sqldb.Options{})))
	})
	t.Run("redis and PostgreSQL", func(t *testing.T) {
		t.Parallel()
		st := openStore(t, storetest.Redis(t).URL())
		fn(newRig(t, st, sqldbtest.Open(t, sqldbtest.Shared(t).NewSchema(t), sqldb.Options{})))
	})
}

func openStore(t *testing.T, url string) *store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func newRig(t *testing.T, st *store.Store, db *sqldb.DB) *rig {
	t.Helper()
	if err := db.Migrate(t.Context(), sqldb.Core(), idem.Migrations(), ledger.Migrations(), payment.Migrations(), Migrations()); err != nil {
		t.Fatal(err)
	}
	return &rig{T: t, store: st, db: db}
}

// sales makes a process's Sales; started ones expire and reconcile.
func (r *rig) sales(started bool, opts Options) *Sales {
	r.Helper()
	s, err := New(r.store, r.db, opts)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = s.Close() })
	if started {
		if err := s.Start(r.Context()); err != nil {
			r.Fatal(err)
		}
	}
	return s
}

func (r *rig) sale(s *Sales, n NewSale) Sale {
	r.Helper()
	if n.Name == "" {
		n.Name, n.Price, n.Currency = "Sneaker", 4200, "EUR"
	}
	sale, err := s.Create(r.Context(), n)
	if err != nil {
		r.Fatal(err)
	}
	return sale
}

func (r *rig) key() string {
	r.keys++
	return fmt.Sprintf("caller\nPOST\n/holds\n%d", r.keys)
}

func (r *rig) hold(s *Sales, sale, buyer string) Held {
	r.Helper()
	h, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale, Buyer: buyer})
	if err != nil {
		r.Fatal(err)
	}
	return h
}

// until polls what must become true soon.
func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("not within 15 s: %s", what)
		}
	}
}

// live reads the permits that count, past the code that is judged.
func (r *rig) permits(sale string) (live, forever int64) {
	r.Helper()
	out, err := countPermits.Do(r.Context(), r.store, countIn{permitsKey(sale)})
	if err != nil {
		r.Fatal(err)
	}
	return out.Live, out.Forever
}

type countIn struct {
	Permits string `store:"key"`
}
type countOut struct{ Live, Forever int64 }

var countPermits = store.Decide("test.count", store.Lua(`
	local t = redis.call('TIME')
	local now = string.format('(%.0f', t[1] * 1000000 + t[2])
	return {redis.call('ZCOUNT', KEYS[1], now, '+inf'), redis.call('ZCOUNT', KEYS[1], 9007199254740991, '+inf')}`),
	func(tx *store.Tx, in countIn) countOut {
		return countOut{tx.ZCount(in.Permits, tx.Now()+1, never), tx.ZCount(in.Permits, never, never)}
	})

// numbers reads the sale's row and counts its holds by itself, and demands that they agree.
func (r *rig) numbers(sale string) (held, sold int64) {
	r.Helper()
	var stock, rowsHeld, rowsSold, orders int64
	err := r.db.Read(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		return tx.Row(ctx, `SELECT stock, held, sold,
			(SELECT count(*) FROM holds WHERE sale = sales.id AND state = 'held'),
			(SELECT count(*) FROM holds WHERE sale = sales.id AND state = 'confirmed'),
			(SELECT count(*) FROM orders WHERE sale = sales.id AND state = 'confirmed')
			FROM sales WHERE id = $1`, sale).Scan(&stock, &held, &sold, &rowsHeld, &rowsSold, &orders)
	})
	if err != nil {
		r.Fatal(err)
	}
	if held != rowsHeld || sold != rowsSold || sold != orders || held+sold > stock {
		r.Fatalf("stock %d: %d held (%d rows), %d sold (%d rows, %d orders)", stock, held, rowsHeld, sold, rowsSold, orders)
	}
	return held, sold
}

// flush makes the store forget the sale.
func (r *rig) flush(sale string) {
	r.Helper()
	if _, err := forget.Do(r.Context(), r.store, forgetIn{permitsKey(sale), spentKey(sale), gateKey(sale)}); err != nil {
		r.Fatal(err)
	}
}

type forgetIn struct {
	A string `store:"key"`
	B string `store:"key"`
	C string `store:"key"`
}
type forgetOut struct{ N int64 }

var forget = store.Decide("test.forget", store.Lua(`return {redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])}`),
	func(tx *store.Tx, in forgetIn) forgetOut { return forgetOut{tx.Del(in.A, in.B, in.C)} })
