package flashsale

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// forgetting makes Sales whose store forgets all while an attempt is between its permit and its
// row, and has a gate again before there is the row.
func (r *rig) forgetting(other *Sales, after func() error) *Sales {
	s := r.sales(false, Options{})
	s.at = func(at string) error {
		switch at {
		case "admitted":
			sale := "sneaker"
			r.flush(sale)
			t, err := other.terms(r.Context(), sale)
			if err != nil {
				return err
			}
			if built, err := other.buildGate(r.Context(), t); err != nil || !built {
				r.Errorf("built %v, %v", built, err)
			}
		case "reserved":
			return after()
		}
		return nil
	}
	return s
}

// A permit that the store forgot, of a hold that has ended since: who repeats its key gets the
// answer that it has, and not "sold out".
func TestRepeatOfAForgottenPermit(t *testing.T) {
	pair(t, func(r *rig) {
		other := r.sales(false, Options{})
		r.sale(other, NewSale{ID: "sneaker", Stock: 1})
		dying := r.forgetting(other, func() error { return errCrash })
		first := HoldRequest{Key: r.key(), Sale: "sneaker", Buyer: "ada"}
		if _, err := dying.Hold(r.Context(), first); err == nil {
			r.Fatal("it did not die")
		}
		var id string
		if err := r.db.Read(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			return tx.Row(ctx, `SELECT id FROM holds`).Scan(&id)
		}); err != nil {
			r.Fatal(err)
		}
		if err := other.Release(r.Context(), "sneaker", id); err != nil {
			r.Fatal(err)
		}
		rec := &reconciler{sales: other}
		if err := rec.all(r.Context()); err != nil {
			r.Fatal(err)
		}
		r.hold(other, "sneaker", "grace") // the last unit
		if _, err := other.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: "sneaker", Buyer: "linus"}); !errors.Is(err, ErrSoldOut) {
			r.Fatalf("it is not sold out: %v", err)
		}
		if h, err := other.Hold(r.Context(), first); err != nil || !h.Replayed {
			r.Errorf("a repeat got %+v, %v", h, err)
		}
	})
}

// A hold whose permit could not be prolonged has it as soon as the store is back, whatever the
// database does meanwhile.
func TestLatePermit(t *testing.T) {
	redis := storetest.Redis(t)
	r := newRig(t, openStore(t, redis.URL()), sqldbtest.Open(t, sqldbtest.SQLite(t), sqldb.Options{}))
	other := r.sales(false, Options{})
	r.sale(other, NewSale{ID: "sneaker", Stock: 1})
	proxy := storetest.NewProxy(t, redis)
	direct := r.store
	r.store = openStore(t, proxy.URL())
	s := r.forgetting(other, func() error {
		proxy.Set(storetest.Weather{DropUp: true, DropDown: true})
		proxy.Cut()
		return nil
	})
	r.store = direct
	first := HoldRequest{Key: r.key(), Sale: "sneaker", Buyer: "ada"}
	if _, err := s.Hold(r.Context(), first); err != nil {
		r.Fatal(err)
	}
	if live, _ := r.permits("sneaker"); live != 0 {
		r.Fatalf("%d permits although the store was away", live)
	}
	if err := s.prolongLate(r.Context()); err == nil {
		r.Fatal("nothing failed while the store was away")
	}
	proxy.Set(storetest.Weather{})
	r.until("the store is back", func() bool { return s.prolongLate(r.Context()) == nil })
	if live, _ := r.permits("sneaker"); live != 1 {
		r.Errorf("%d permits", live)
	}
	if len(s.late.all) != 0 {
		r.Errorf("%d are late still", len(s.late.all))
	}
}
