package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

const many = 256

var ledgerGroup = group{
	title: "One hot account", unit: "transfers/s",
	note: "256 callers post transfers that all debit one account: each in a transaction of its own, or together " +
		"with whoever comes at the same time. Durable before the answer (SQLite `synchronous=FULL`, PostgreSQL `fsync = on`).",
	open: func(t *testing.T) (rows []*measure) {
		for _, d := range [][2]string{{"SQLite", sqldbtest.SQLite(t)}, {"PostgreSQL", sqldbtest.Shared(t).NewSchema(t)}} {
			name, db := d[0], sqldbtest.Open(t, d[1], sqldb.Options{})
			if err := db.Migrate(t.Context(), sqldb.Core(), ledger.Migrations()); err != nil {
				t.Fatal(err)
			}
			err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
				return ledger.Open(ctx, tx,
					ledger.Account{ID: "hot", Kind: ledger.Asset, Currency: "EUR", Overdraft: true},
					ledger.Account{ID: "other", Kind: ledger.Liability, Currency: "EUR"})
			})
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, transfers(db, name)...)
		}
		return rows
	},
}

func transfers(db *sqldb.DB, name string) []*measure {
	var n atomic.Int64
	group := ledger.Group(db)
	one := func() ledger.Op {
		return ledger.Transfer{ID: fmt.Sprint(n.Add(1)), Debit: "hot", Credit: "other", Amount: 1, Currency: "EUR"}
	}
	alone := name + ", one transaction each"
	return []*measure{
		{name: alone, run: func(t *testing.T, d time.Duration) float64 {
			return callers(t, many, d, func(int, int64) error {
				op := one()
				return db.Write(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
					out, err := ledger.Apply(ctx, tx, op)
					if err == nil {
						err = out[0].Err
					}
					return err
				})
			})
		}},
		{name: name + ", together", of: alone, run: func(t *testing.T, d time.Duration) float64 {
			return callers(t, many, d, func(int, int64) error {
				_, err := group.Do(context.Background(), one())
				return err
			})
		}},
	}
}

var holdGroup = group{
	title: "One hot item, in the process", unit: "calls/s",
	note: "256 callers want units of one sale, without HTTP. A hold is a permit in the store and a row in SQL; " +
		"\"sold out\" is answered from the mark.",
	open: func(t *testing.T) (rows []*measure) {
		for _, e := range engines(t) {
			s := e.shop(t)
			hold := func(stock int64, fine func(error) bool) func(t *testing.T, d time.Duration) float64 {
				sale := s.sale(t, stock)
				return func(t *testing.T, d time.Duration) float64 {
					return callers(t, many, d, func(int, int64) error {
						who := fmt.Sprint(s.n.Add(1))
						_, err := s.sales.Hold(context.Background(), flashsale.HoldRequest{Key: who, Sale: sale, Buyer: who})
						if fine(err) {
							return nil
						}
						return err
					})
				}
			}
			rows = append(rows,
				&measure{name: "holds, " + e.name, run: hold(flashsale.MaxStock, func(err error) bool { return err == nil })},
				&measure{name: "sold out, " + e.name, run: hold(1, func(err error) bool { return err == nil || soldOut(err) })})
		}
		return rows
	},
}
