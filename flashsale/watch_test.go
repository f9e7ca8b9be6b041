package flashsale

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// A store that comes back with what was true before lets nobody in for long who finds nothing,
// and keeps nobody out for whom there is something.
func TestStoreFallsBack(t *testing.T) {
	pair(t, func(r *rig) {
		s := r.sales(false, Options{})
		sale := r.sale(s, NewSale{Stock: 2})
		var claims []payment.Claim
		for _, buyer := range []string{"ada", "bob"} {
			h := r.hold(s, sale.ID, buyer)
			c := payment.Claim{Payment: "p-" + h.Hold.ID, Hold: h.Hold.ID, Buyer: buyer, Amount: sale.Price, Currency: sale.Currency}
			if err := r.pay(r.Context(), s, c, false); err != nil {
				r.Fatal(err)
			}
			claims = append(claims, c)
		}
		cancelled := permitOf("caller\nPOST\n/holds\n1")

		// Before they were paid for.
		r.put(sale.ID, "")
		r.looks(s, sale.ID, func() bool { return r.forever(sale.ID) == 2 })

		// One is cancelled, and the store comes back with both.
		err := r.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error { return s.Abandon(ctx, tx, claims[0]) })
		if err != nil {
			r.Fatal(err)
		}
		s.After(r.Context(), claims[0])
		if _, sold := r.numbers(sale.ID); sold != 1 {
			r.Fatalf("%d sold", sold)
		}
		r.put(sale.ID, cancelled)
		r.looks(s, sale.ID, func() bool { return r.forever(sale.ID) == 1 })
		r.until("cyd gets it", func() bool {
			_, err := s.Hold(r.Context(), HoldRequest{Key: "cyd", Sale: sale.ID, Buyer: "cyd"})
			return err == nil
		})
	})
}

// looks asks for units, which are sold out, and watches, until ok.
func (r *rig) looks(s *Sales, sale string, ok func() bool) {
	r.Helper()
	for n := 0; !ok(); n++ {
		if n > doubtRest+doubts {
			r.Fatal("not mended")
		}
		if _, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale, Buyer: "eve"}); !errors.Is(err, ErrSoldOut) {
			r.Fatalf("got %v", err)
		}
		if err := s.watch(r.Context()); err != nil {
			r.Fatal(err)
		}
	}
}

func (r *rig) forever(sale string) int64 {
	_, n := r.permits(sale)
	return n
}

// put gives a permit back its place without a deadline, past the code that is judged; without
// an id all go.
func (r *rig) put(sale, id string) {
	r.Helper()
	if _, err := putPermit.Do(r.Context(), r.store, putIn{permitsKey(sale), id, never}); err != nil {
		r.Fatal(err)
	}
}

type putIn struct {
	Permits string `store:"key"`
	ID      string
	At      int64
}
type putOut struct{ N int64 }

var putPermit = store.Decide("test.put", store.Lua(`
	if ARGV[1] == '' then return {redis.call('DEL', KEYS[1])} end
	return {redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])}`),
	func(tx *store.Tx, in putIn) putOut {
		if in.ID == "" {
			return putOut{tx.Del(in.Permits)}
		}
		tx.ZAdd(in.Permits, in.At, in.ID)
		return putOut{1}
	})

// What a process keeps of a sale goes when nobody asks for it any more.
func TestSalesAreForgotten(t *testing.T) {
	pair(t, func(r *rig) {
		s := r.sales(false, Options{})
		sale := r.sale(s, NewSale{Stock: 1})
		r.hold(s, sale.ID, "ada")
		if _, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "bob"}); !errors.Is(err, ErrSoldOut) {
			r.Fatalf("got %v", err)
		}
		terms, err := s.terms(r.Context(), sale.ID)
		if err != nil {
			r.Fatal(err)
		}
		r.until("a mark", func() bool { return terms.mark.last.Load() != nil })
		now := time.Now()
		for _, step := range []struct {
			after       time.Duration
			mark, known bool
		}{{0, true, true}, {markIdle - 1, true, true}, {markIdle + 1, false, true}, {termsIdle + 1, false, false}} {
			s.busy(now.Add(step.after))
			if mark := terms.mark.last.Load() != nil; mark != step.mark {
				r.Errorf("after %s: mark is %v", step.after, mark)
			}
			if _, known := s.known.Load(sale.ID); known != step.known {
				r.Errorf("after %s: known is %v", step.after, known)
			}
		}
	})
}
