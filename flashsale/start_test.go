package flashsale

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// aged moves changes of holds into the past.
func (r *rig) aged(where string, by time.Duration) {
	r.Helper()
	err := r.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE holds SET changed_at = changed_at - $1 WHERE `+where, by.Microseconds())
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
}

// A process died before it had given a unit back, and others went on for some seconds. The next one sells the unit at once, however many
// holds there are.
func TestStartMendsTheLastChanges(t *testing.T) {
	pair(t, func(r *rig) {
		const older = 6_000
		dying := r.crashing("released")
		sale := r.sale(dying, NewSale{Stock: older + 2, PerBuyer: 1})
		r.fill(sale.ID, older)
		r.aged("true", time.Minute)
		var held Held
		ada := HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"}
		r.until("the gate is there", func() (ok bool) {
			var err error
			held, err = dying.Hold(r.Context(), ada)
			return err == nil
		})
		if err := dying.Release(r.Context(), sale.ID, held.Hold.ID); !errors.Is(err, errCrash) {
			r.Fatal(err)
		}
		r.aged("buyer = 'ada'", 8*time.Second)
		if _, err := dying.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "grace"}); err != nil {
			r.Fatal(err)
		}
		s := r.sales(false, Options{})
		s.closed = true // nothing is compared behind it
		if err := s.Start(r.Context()); err != nil {
			r.Fatal(err)
		}
		if _, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "linus"}); err != nil {
			r.Errorf("the unit that came back is not sold: %v", err)
		}
	})
}

// All permits are compared after a start, those of the last changes first; what fails goes on where it was.
func TestTheLastChangesAreComparedFirst(t *testing.T) {
	observed(t, func(r *rig, decided *atomic.Pointer[func(string)]) {
		const pages = 8
		s := r.sales(false, Options{})
		sale := r.sale(s, NewSale{Stock: pages*batch + 1, PerBuyer: 1})
		first := HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"}
		if _, err := s.Hold(r.Context(), first); err != nil { // its id comes before all others
			r.Fatal(err)
		}
		r.fill(sale.ID, pages*batch)
		r.aged("buyer <> 'ada'", time.Minute)
		in := giveBackIn{
			Permits: permitsKey(sale.ID), Spent: spentKey(sale.ID), Gate: gateKey(sale.ID),
			KeyLife: s.opts.KeyLife.Microseconds(), IDs: []string{permitOf(first.Key)},
		}
		if out, err := giveBack.Do(r.Context(), s.store, in); err != nil || out.Ended != 1 { // the store has lost it
			r.Fatal(out, err)
		}
		var compared atomic.Int64
		ctx, cancel := context.WithCancel(r.Context())
		stop := func(decision string) {
			if decision == "flashsale.extend" {
				compared.Add(1)
				cancel()
			}
		}
		decided.Store(&stop)
		rec := &reconciler{sales: s}
		if err := rec.all(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, sqldb.ErrUnavailable) {
			r.Fatalf("it was to stop after its first page: %v", err)
		}
		if live, _ := r.permits(sale.ID); live == 0 || compared.Load() != 1 {
			r.Fatalf("%d permits after %d pages", live, compared.Load())
		}
		if h, err := s.Hold(r.Context(), first); err != nil || !h.Replayed {
			r.Errorf("after the first page a repeat got %+v, %v", h, err)
		}
		if err := rec.all(r.Context()); err != nil {
			r.Fatal(err)
		}
		if n := compared.Load(); n != pages+1 {
			r.Errorf("%d pages were compared, of %d", n, pages+1)
		}
		r.agree(s, sale.ID)
	})
}
