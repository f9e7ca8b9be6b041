package flashsale

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

// What a payment without a sale gives back does not wait for the sale's row, which everybody wants:
// else those that came too late hold up those that can still be in time.
func TestAbandonDoesNotWaitForTheSale(t *testing.T) {
	r := newRig(t, openStore(t, "mem:"), sqldbtest.Open(t, sqldbtest.Shared(t).NewSchema(t), sqldb.Options{}))
	s := r.sales(false, Options{})
	sale := r.sale(s, NewSale{Stock: 2, PerBuyer: 2})
	live, gone := r.hold(s, sale.ID, "ada").Hold.ID, r.hold(s, sale.ID, "bob").Hold.ID
	if err := s.Release(r.Context(), sale.ID, gone); err != nil {
		r.Fatal(err)
	}
	err := r.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE holds SET payment = 'p' WHERE id = $1`, live)
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	err = r.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		if err := lockSale(ctx, tx, sale.ID); err != nil {
			return err
		}
		for _, hold := range []string{live, gone} {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 20*time.Second)
			err := r.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
				return s.Abandon(ctx, tx, payment.Claim{Payment: "p", Hold: hold})
			})
			cancel()
			if err != nil {
				r.Errorf("%s: %v", hold, err)
			}
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
}
