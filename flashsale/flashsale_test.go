package flashsale

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestHoldAndRelease(t *testing.T) {
	everywhere(t, func(r *rig) {
		s := r.sales(true, Options{})
		sale := r.sale(s, NewSale{Stock: 2})
		first := r.hold(s, sale.ID, "ada")
		if first.Hold.State != StateHeld || first.Hold.Price != 4200 || first.Replayed {
			r.Errorf("got %+v", first)
		}
		r.hold(s, sale.ID, "bob")
		if _, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "cyd"}); !errors.Is(err, ErrSoldOut) {
			r.Errorf("the third: %v", err)
		}
		for range 2 { // twice is as good as once
			if err := s.Release(r.Context(), sale.ID, first.Hold.ID); err != nil {
				r.Error(err)
			}
		}
		r.until("the unit is on sale again", func() bool {
			_, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "cyd"})
			return err == nil
		})
		if held, sold := r.numbers(sale.ID); held != 2 || sold != 0 {
			r.Errorf("held %d, sold %d", held, sold)
		}
		if live, _ := r.permits(sale.ID); live != 2 {
			r.Errorf("%d permits", live)
		}
	})
}

// A repeat gets the same bytes: while the hold lives, when it has ended, when the sale is sold
// out, and when the store has forgotten everything.
func TestRepeats(t *testing.T) {
	everywhere(t, func(r *rig) {
		s, other := r.sales(true, Options{}), r.sales(true, Options{})
		sale := r.sale(s, NewSale{Stock: 1})
		req := HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"}
		first, err := s.Hold(r.Context(), req)
		if err != nil {
			r.Fatal(err)
		}
		same := func(when string) {
			r.Helper()
			for _, s := range []*Sales{s, other} {
				again, err := s.Hold(r.Context(), req)
				if err != nil || !again.Replayed || !bytes.Equal(again.Answer, first.Answer) {
					r.Errorf("%s: %q, replayed %t, %v", when, again.Answer, again.Replayed, err)
				}
			}
		}
		same("at once")
		for _, s := range []*Sales{s, other} { // makes both fetch a mark
			if _, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "bob"}); !errors.Is(err, ErrSoldOut) {
				r.Errorf("bob: %v", err)
			}
		}
		r.until("there is a mark", func() bool {
			tm, _ := s.terms(r.Context(), sale.ID)
			return tm.mark.last.Load() != nil
		})
		same("sold out")
		r.flush(sale.ID)
		same("the store forgot")
		if err := s.Release(r.Context(), sale.ID, first.Hold.ID); err != nil {
			r.Fatal(err)
		}
		same("released")
		r.flush(sale.ID)
		same("released and forgotten")
		req.Buyer = "eve"
		if _, err := s.Hold(r.Context(), req); !errors.Is(err, ErrKeyReused) {
			r.Errorf("another body: %v", err)
		}
	})
}

func TestLimitPerBuyer(t *testing.T) {
	everywhere(t, func(r *rig) {
		s := r.sales(true, Options{})
		sale := r.sale(s, NewSale{Stock: 10, PerBuyer: 2})
		var given, refused atomic.Int64
		var wg sync.WaitGroup
		for range 6 {
			key := r.key()
			wg.Go(func() {
				switch _, err := s.Hold(r.Context(), HoldRequest{Key: key, Sale: sale.ID, Buyer: "ada"}); {
				case err == nil:
					given.Add(1)
				case errors.Is(err, ErrLimit):
					refused.Add(1)
				default:
					r.Error(err)
				}
			})
		}
		wg.Wait()
		if given.Load() != 2 || refused.Load() != 4 {
			r.Errorf("%d given, %d refused", given.Load(), refused.Load())
		}
		if live, _ := r.permits(sale.ID); live != 2 {
			r.Errorf("%d permits: a refusal keeps none", live)
		}
	})
}

func TestNotOpenYet(t *testing.T) {
	everywhere(t, func(r *rig) {
		s := r.sales(true, Options{})
		sale := r.sale(s, NewSale{Stock: 1, OpensAt: time.Now().Add(700 * time.Millisecond)})
		req := HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"}
		if _, err := s.Hold(r.Context(), req); !errors.Is(err, ErrNotOpen) {
			r.Errorf("before: %v", err)
		}
		r.until("open", func() bool {
			_, err := s.Hold(r.Context(), req)
			return err == nil
		})
		if now := time.Now(); now.Before(sale.OpensAt) {
			r.Errorf("given at %s, opens at %s", now, sale.OpensAt)
		}
	})
}

func TestHoldExpires(t *testing.T) {
	everywhere(t, func(r *rig) {
		s := r.sales(true, Options{})
		sale := r.sale(s, NewSale{Stock: 1, HoldSeconds: 1})
		h := r.hold(s, sale.ID, "ada")
		r.until("the unit is on sale again", func() bool {
			_, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "bob"})
			return err == nil
		})
		late := time.Since(h.Hold.ExpiresAt)
		if late < 0 || late > time.Second {
			r.Errorf("sold again %s after it expired", late)
		}
		r.numbers(sale.ID)
	})
}

// A rush: more buyers than units, each key twice at the same time, on two processes.
func TestRush(t *testing.T) {
	everywhere(t, func(r *rig) {
		servers := []*Sales{r.sales(true, Options{}), r.sales(true, Options{})}
		const stock, buyers = 20, 60
		sale := r.sale(servers[0], NewSale{Stock: stock, PerBuyer: 2})
		var mu sync.Mutex
		answers := map[string][]byte{}
		var soldOut, given int
		var wg sync.WaitGroup
		for i := range buyers * 2 {
			req := HoldRequest{Key: "k" + string(rune('0'+i/2)), Sale: sale.ID, Buyer: "b" + string(rune('0'+i/2))}
			wg.Go(func() {
				h, err := servers[i%2].Hold(r.Context(), req)
				for errors.Is(err, ErrInFlight) {
					h, err = servers[i%2].Hold(r.Context(), req)
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, ErrSoldOut):
					soldOut++
				case err != nil:
					r.Error(err)
				case answers[req.Key] == nil:
					answers[req.Key] = h.Answer
					given++
				case !bytes.Equal(answers[req.Key], h.Answer):
					r.Errorf("two answers for one key: %s, %s", answers[req.Key], h.Answer)
				}
			})
		}
		wg.Wait()
		if held, _ := r.numbers(sale.ID); given != stock || held != stock {
			r.Errorf("%d given, %d held, %d told sold out", given, held, soldOut)
		}
		if live, _ := r.permits(sale.ID); live != stock {
			r.Errorf("%d permits", live)
		}
	})
}

func TestCreate(t *testing.T) {
	pair(t, func(r *rig) {
		s := r.sales(false, Options{})
		terms := NewSale{ID: "drop-1", Name: "Drop", Stock: 5, Price: 100, Currency: "EUR", PerBuyer: 2, HoldSeconds: 30}
		sale, err := s.Create(r.Context(), terms)
		if err != nil {
			r.Fatal(err)
		}
		if again, err := s.Create(r.Context(), terms); err != nil || again != sale {
			r.Errorf("again: %+v, %v", again, err)
		}
		terms.Price++
		if _, err := s.Create(r.Context(), terms); !errors.Is(err, ErrExists) {
			r.Errorf("other terms: %v", err)
		}
		if _, err := s.Sale(r.Context(), "drop-2"); !errors.Is(err, ErrNotFound) {
			r.Errorf("unknown: %v", err)
		}
		if all, err := s.List(r.Context(), 10); err != nil || len(all) != 1 || all[0] != sale {
			r.Errorf("list: %+v, %v", all, err)
		}
	})
}

func TestBadInput(t *testing.T) {
	pair(t, func(r *rig) {
		s := r.sales(false, Options{})
		good := NewSale{ID: "s", Name: "Drop", Stock: 5, Price: 100, Currency: "EUR"}
		for field, spoil := range map[string]func(*NewSale){
			"id":           func(n *NewSale) { n.ID = "a}b" },
			"name":         func(n *NewSale) { n.Name = "a\x00b" },
			"stock":        func(n *NewSale) { n.Stock = -1 },
			"price":        func(n *NewSale) { n.Price = math.MaxInt64 },
			"currency":     func(n *NewSale) { n.Currency = "XXZ" },
			"per_buyer":    func(n *NewSale) { n.PerBuyer = 6 },
			"hold_seconds": func(n *NewSale) { n.HoldSeconds = 3601 },
			"opens_at":     func(n *NewSale) { n.OpensAt = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) },
		} {
			bad := good
			spoil(&bad)
			var invalid *InvalidError
			if _, err := s.Create(r.Context(), bad); !errors.As(err, &invalid) || invalid.Field != field {
				r.Errorf("%s: %v", field, err)
			}
		}
		r.sale(s, good)
		for field, req := range map[string]HoldRequest{
			"key":   {Key: strings.Repeat("k", MaxKey+1), Sale: "s", Buyer: "ada"},
			"buyer": {Key: "k", Sale: "s", Buyer: strings.Repeat("b", MaxBuyer+1)},
		} {
			var invalid *InvalidError
			if _, err := s.Hold(r.Context(), req); !errors.As(err, &invalid) || invalid.Field != field {
				r.Errorf("%s: %v", field, err)
			}
		}
		if _, err := s.Hold(r.Context(), HoldRequest{Key: "k", Sale: "none", Buyer: "ada"}); !errors.Is(err, ErrNotFound) {
			r.Errorf("unknown sale: %v", err)
		}
		if err := s.Release(r.Context(), "s", "none"); !errors.Is(err, ErrNotFound) {
			r.Errorf("unknown hold: %v", err)
		}
		if held, _ := r.numbers("s"); held != 0 {
			r.Errorf("%d held", held)
		}
	})
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{SQLTimeout: -1}, {MarkLife: time.Second}, {KeyLife: time.Second},
		{SQLTimeout: 3 * time.Second, PermitLife: 6 * time.Second},
	} {
		if _, err := New(nil, nil, o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestClosed(t *testing.T) {
	pair(t, func(r *rig) {
		s := r.sales(true, Options{})
		sale := r.sale(s, NewSale{Stock: 1})
		for range 2 {
			if err := s.Close(); err != nil {
				r.Error(err)
			}
		}
		if _, err := s.Hold(r.Context(), HoldRequest{Key: "k", Sale: sale.ID, Buyer: "ada"}); !errors.Is(err, ErrClosed) {
			r.Errorf("got %v", err)
		}
	})
}
