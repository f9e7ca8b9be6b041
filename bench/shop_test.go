package bench

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

func soldOut(err error) bool { return errors.Is(err, flashsale.ErrSoldOut) }

// engine is a store and a database.
type engine struct{ name, store, db string }

func engines(t *testing.T) []engine {
	return []engine{
		{"`file:` and SQLite", "file:" + t.TempDir(), sqldbtest.SQLite(t)},
		{"redis-server and PostgreSQL", storetest.Redis(t).URL(), sqldbtest.Shared(t).NewSchema(t)},
	}
}

// shop is a server, over HTTP on loopback and in the process.
type shop struct {
	sales    *flashsale.Sales
	payments *payment.Payments
	address  string
	n        atomic.Int64
}

func (e engine) shop(t *testing.T) *shop {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	st, err := store.Open(t.Context(), e.store, store.Options{})
	must(err)
	t.Cleanup(func() { _ = st.Close() })
	db := sqldbtest.Open(t, e.db, sqldb.Options{})
	must(db.Migrate(t.Context(), flashsale.Schema()...))
	s := &shop{}
	s.sales, err = flashsale.New(st, db, flashsale.Options{})
	must(err)
	t.Cleanup(func() { _ = s.sales.Close() })
	must(s.sales.Start(t.Context()))
	s.payments, err = payment.New(db, instant{}, s.sales, payment.Options{Workers: 256})
	must(err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = s.payments.Close(ctx)
	})
	s.payments.Start()
	web, err := server.New(server.Config{Store: st, DB: db, Sales: s.sales, Payments: s.payments})
	must(err)
	t.Cleanup(func() { _ = web.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	s.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = web.Serve(ctx, l, time.Second) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *shop) sale(t *testing.T, stock int64) string {
	t.Helper()
	sale, err := s.sales.Create(t.Context(), flashsale.NewSale{
		Name: "Bench", Stock: stock, Price: 100, Currency: "EUR", HoldSeconds: 3600, PerBuyer: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return sale.ID
}
