package flashsale

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dev/holdfast/internal/idem"
	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// engines runs a benchmark on the embedded engines, and on Redis with PostgreSQL.
func engines(b *testing.B, fn func(b *testing.B, s *Sales)) {
	for name, urls := range map[string]func(b *testing.B) (string, string){
		"file+sqlite": func(b *testing.B) (string, string) { return "file:" + b.TempDir(), sqldbtest.SQLite(b) },
		"redis+postgres": func(b *testing.B) (string, string) {
			return storetest.Redis(b).URL(), sqldbtest.Shared(b).NewSchema(b)
		},
	} {
		b.Run(name, func(b *testing.B) {
			storeURL, dbURL := urls(b)
			st, err := store.Open(b.Context(), storeURL, store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = st.Close() })
			db := sqldbtest.Open(b, dbURL, sqldb.Options{})
			if err := db.Migrate(b.Context(), sqldb.Core(), idem.Migrations(), ledger.Migrations(), payment.Migrations(), Migrations()); err != nil {
				b.Fatal(err)
			}
			s, err := New(st, db, Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = s.Close() })
			if err := s.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			fn(b, s)
		})
	}
}

// BenchmarkHold: 64 callers take units of one sale.
func BenchmarkHold(b *testing.B) {
	engines(b, func(b *testing.B, s *Sales) {
		bench(b, s, MaxStock, func(err error) bool { return err == nil })
	})
}

// BenchmarkSoldOut: 64 callers are told that there is nothing left.
func BenchmarkSoldOut(b *testing.B) {
	engines(b, func(b *testing.B, s *Sales) {
		bench(b, s, 1, func(err error) bool { return err == nil || errors.Is(err, ErrSoldOut) })
	})
}

func bench(b *testing.B, s *Sales, stock int64, fine func(error) bool) {
	b.Helper()
	sale, err := s.Create(b.Context(), NewSale{Name: "Bench", Stock: stock, Price: 100, Currency: "EUR", HoldSeconds: 3600})
	if err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	b.SetParallelism(32) // times GOMAXPROCS
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			who := fmt.Sprint(n.Add(1))
			_, err := s.Hold(context.Background(), HoldRequest{Key: who, Sale: sale.ID, Buyer: who})
			if !fine(err) {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
