package ledger_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

// BenchmarkHotAccount: 256 callers post transfers that all debit one account, each in a
// transaction of its own, or together with whoever comes at the same time.
func BenchmarkHotAccount(b *testing.B) {
	for name, url := range map[string]func() string{
		"sqlite":   func() string { return sqldbtest.SQLite(b) },
		"postgres": func() string { return sqldbtest.Shared(b).NewSchema(b) },
	} {
		for _, grouped := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/grouped=%t", name, grouped), func(b *testing.B) {
				db := sqldbtest.Open(b, url(), sqldb.Options{})
				if err := db.Migrate(b.Context(), sqldb.Core(), ledger.Migrations()); err != nil {
					b.Fatal(err)
				}
				err := db.Write(b.Context(), func(ctx context.Context, tx *sqldb.Tx) error { return ledger.Open(ctx, tx, accounts...) })
				if err != nil {
					b.Fatal(err)
				}
				benchTransfers(b, db, grouped)
			})
		}
	}
}

func benchTransfers(b *testing.B, db *sqldb.DB, grouped bool) {
	group := ledger.Group(db)
	var n atomic.Int64
	b.SetParallelism(128) // times GOMAXPROCS
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			op := fund(fmt.Sprint(n.Add(1)), "ada", 1)
			var err error
			if grouped {
				_, err = group.Do(context.Background(), op)
			} else {
				err = db.Write(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
					out, err := ledger.Apply(ctx, tx, op)
					if err == nil {
						err = out[0].Err
					}
					return err
				})
			}
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "transfers/s")
}
