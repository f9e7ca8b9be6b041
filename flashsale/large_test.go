package flashsale

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// A gate that takes longer to build than a request has is built all the same.
func TestGateOfALargeSale(t *testing.T) {
	pair(t, func(r *rig) {
		const rows = 30_000
		s := r.sales(false, Options{SQLTimeout: 100 * time.Millisecond})
		sale := r.sale(s, NewSale{Stock: rows + 1})
		r.fill(sale.ID, rows)
		req := HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"}
		early := 0
		r.until("the gate is there", func() bool {
			_, err := s.Hold(r.Context(), req)
			if err != nil {
				early++
			}
			if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, sqldb.ErrBusy) {
				r.Fatal(err)
			}
			return err == nil
		})
		if early == 0 {
			r.Error("no request came before the gate was there")
		}
		if s.Stats().Rebuilt != 1 {
			r.Errorf("built %d times", s.Stats().Rebuilt)
		}
		r.agree(s, sale.ID)
	})
}

// fill gives units of a sale to buyers who came before the test.
func (r *rig) fill(sale string, units int) {
	r.Helper()
	const most = 2_000 // in one transaction, which has 2 s
	for from := 0; from < units; from += most {
		err := r.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, `
				WITH RECURSIVE n(i) AS (SELECT $2 + 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2 + $3)
				INSERT INTO holds (id, sale, buyer, permit, state, created_at, expires_at, changed_at)
				SELECT $1 || '-' || i, $1, 'b' || i, 'p' || i, 'held', holdfast_now(), holdfast_now() + 600000000, holdfast_now() FROM n`,
				sale, from, most)
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `UPDATE sales SET held = held + $2, version = version + 1 WHERE id = $1`, sale, most)
			return err
		})
		if err != nil {
			r.Fatal(err)
		}
	}
}
