package payment

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
)

func TestAccept(t *testing.T) {
	each(t, func(r *rig) {
		p := r.payments(false)
		req := r.request(r.seat())
		first, err := p.Accept(r.Context(), req)
		if err != nil || first.Replayed || first.Payment.State != Pending {
			r.Fatalf("%+v, %v", first, err)
		}
		again, err := p.Accept(r.Context(), req)
		if err != nil || !again.Replayed || !bytes.Equal(again.Answer, first.Answer) || again.Payment.ID != first.Payment.ID {
			r.Errorf("again: %+v, %v", again, err)
		}
		req.Source = "other"
		if _, err := p.Accept(r.Context(), req); !errors.Is(err, ErrKeyReused) {
			r.Errorf("other request: %v", err)
		}
		req.Key = "another"
		if _, err := p.Accept(r.Context(), req); !errors.Is(err, ErrHoldPaid) {
			r.Errorf("the same seat under another key: %v", err)
		}
		if got, err := p.Get(r.Context(), first.Payment.ID); err != nil || got.ID != first.Payment.ID || got.State != Pending {
			r.Errorf("Get: %+v, %v", got, err)
		}
		if _, err := p.Get(r.Context(), "none"); !errors.Is(err, ErrNotFound) {
			r.Errorf("Get of none: %v", err)
		}
	})
}

func TestDuplicatesAtTheSameTime(t *testing.T) {
	each(t, func(r *rig) {
		p := r.payments(true)
		req := r.request(r.seat())
		var mu sync.Mutex
		answers := map[string]int{}
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				a, err := p.Accept(r.Context(), req)
				if errors.Is(err, ErrInFlight) {
					return
				}
				if err != nil {
					r.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				answers[string(a.Answer)]++
			})
		}
		wg.Wait()
		if len(answers) != 1 {
			r.Errorf("%d different answers", len(answers))
		}
		a, err := p.Accept(r.Context(), req)
		if err != nil {
			r.Fatal(err)
		}
		if pay := r.final(p, a.Payment.ID); pay.State != Captured {
			r.Errorf("%+v", pay)
		}
	})
}

func TestBadInputWritesNothing(t *testing.T) {
	each(t, func(r *rig) {
		p := r.payments(false)
		seat := r.seat()
		for field, spoil := range map[string]func(*Request){
			"key":      func(q *Request) { q.Key = strings.Repeat("k", MaxKey+1) },
			"hold":     func(q *Request) { q.Hold = "" },
			"buyer":    func(q *Request) { q.Buyer = strings.Repeat("b", MaxBuyer+1) },
			"source":   func(q *Request) { q.Source = strings.Repeat("s", MaxSource+1) },
			"amount":   func(q *Request) { q.Amount = -1 },
			"currency": func(q *Request) { q.Currency = "EUX" },
		} {
			q := r.request(seat)
			spoil(&q)
			var invalid *InvalidError
			if _, err := p.Accept(r.Context(), q); !errors.As(err, &invalid) || invalid.Field != field {
				r.Errorf("%s: %v", field, err)
			}
		}
		odd := r.request(seat)
		odd.Source = "tok\xff"
		if _, err := p.Accept(r.Context(), odd); !errors.As(err, new(*InvalidError)) {
			r.Errorf("bytes that are no text: %v", err)
		}
		q := r.request(seat)
		q.Amount = 499
		if _, err := p.Accept(r.Context(), q); !errors.Is(err, ErrAmount) {
			r.Errorf("another price: %v", err)
		}
		q = r.request("nothing")
		var invalid *InvalidError
		if _, err := p.Accept(r.Context(), q); !errors.As(err, &invalid) || invalid.Field != "hold" {
			r.Errorf("no such hold: %v", err)
		}
		var rows int
		r.write(func(ctx context.Context, tx *sqldb.Tx) error {
			return tx.Row(ctx, `SELECT (SELECT count(*) FROM payments) + (SELECT count(*) FROM outbox)
				+ (SELECT count(*) FROM idempotency_keys) + (SELECT count(*) FROM ledger_transfers)`).Scan(&rows)
		})
		if rows != 0 {
			r.Errorf("%d rows were written", rows)
		}
	})
}

// Each way that a payment can go, with what the provider does on the way and where the hold
// ends.
func TestSettling(t *testing.T) {
	for _, c := range []struct {
		name   string
		script []string
		gone   string
		want   State
		told   []string // events
	}{
		{"straight", nil, "", Captured, []string{"pending", "capturing", "captured"}},
		{"lost, then asked", []string{"lost"}, "", Captured, nil},
		{"done, no answer", []string{"cut"}, "", Captured, nil},
		{"neither answers", []string{"cut", "lost", "lost", "lost"}, "", Captured, nil},
		{"capture done, no answer", []string{"", "cut"}, "", Captured, nil},
		{"capture lost", []string{"", "lost", "lost"}, "", Captured, nil},
		{"captures at once", []string{"at once"}, "", Captured, nil},
		{"refused", []string{"refuse"}, "", Failed, []string{"pending", "failed"}},
		{"capture refused", []string{"no capture"}, "", Failed, []string{"pending", "capturing", "failed"}},
		{"capture refused, void lost", []string{"no capture", "", "lost", "lost"}, "", Failed, nil},
		{"refunded by hand", []string{"", "refunded"}, "", Failed, []string{"pending", "capturing", "failed"}},
		{"capture refused, refunded by hand", []string{"no capture", "", "refunded"}, "", Failed, nil},
		{"gone before", nil, "live", Voided, []string{"pending", "voided"}},
		{"gone before the order", nil, "confirm", Voided, []string{"pending", "voided"}},
		{"gone, void has no answer", []string{"", "cut"}, "confirm", Voided, nil},
		{"gone, and captured", []string{"at once"}, "confirm", Refunded, []string{"pending", "refunded"}},
		{"gone, captured, refund lost", []string{"at once", "", "lost", "lost"}, "confirm", Refunded, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(r *rig) {
				r.provider.script = slices.Clone(c.script)
				if c.gone != "" {
					r.goods.gone.Store(c.gone, true)
				}
				p := r.payments(true)
				pay := r.final(p, r.accept(p, r.seat()).ID)
				if pay.State != c.want || (pay.State == Captured) != (pay.Order != "") && pay.State != Failed {
					r.Errorf("%+v", pay)
				}
				if c.name == "capture refused" && !strings.HasPrefix(pay.Reason, "capture refused: né") {
					r.Errorf("the provider's words became %q", pay.Reason)
				}
				if pay.State != Captured && pay.Reason == "" {
					r.Error("nobody is told why")
				}
				events, err := r.db.Events(r.Context(), Topic, sqldb.Cursor{}, 100)
				if err != nil {
					r.Fatal(err)
				}
				var told []string
				for _, e := range events {
					told = append(told, strings.TrimPrefix(e.Kind, "payment."))
				}
				if c.told != nil && !slices.Equal(told, c.told) {
					r.Errorf("events %q", told)
				}
			})
		})
	}
}

// A payment that an earlier version has left authorised is settled like any other.
func TestAuthorisedByAnEarlierVersion(t *testing.T) {
	each(t, func(r *rig) {
		p := r.payments(false)
		id := r.accept(p, r.seat()).ID
		if _, err := r.provider.Authorise(r.Context(), id, 500, "EUR", "tok"); err != nil {
			r.Fatal(err)
		}
		r.write(func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE payments SET state = 'authorised' WHERE id = $1`, id)
			return err
		})
		p.Start()
		if pay := r.final(p, id); pay.State != Captured {
			r.Errorf("%+v", pay)
		}
	})
}

// The database itself refuses steps back, and a payment that changes what it is.
func TestStatesOnlyGoForward(t *testing.T) {
	each(t, func(r *rig) {
		p := r.payments(true)
		id := r.accept(p, r.seat()).ID
		r.final(p, id)
		for _, change := range []string{"state = 'pending'", "state = 'authorised'", "state = 'failed'", "amount = 1", "hold = 'x'", "state = 'lost'"} {
			err := r.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE payments SET `+change+` WHERE id = $1`, id)
				return err
			})
			if _, ok := sqldb.Constraint(err); !ok {
				r.Errorf("%s: %v", change, err)
			}
		}
	})
}

var points = []string{
	"before authorise", "after authorise", "before confirm", "before capture", "after capture",
	"before void", "after void", "before refund", "after refund", "before end", "after end",
}

// A process dies at a random step, again and again, while the provider misbehaves and holds
// end; two others race for what it has left. In the end everything agrees.
func TestCrashes(t *testing.T) {
	each(t, func(r *rig) {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 1))
		r.Logf("seed %d", seed)
		var ids []string
		for round := range 3 * len(points) {
			point := points[round%len(points)]
			faults := []string{"", "lost", "cut", "refuse", "no capture", "at once"}
			for range 3 {
				r.provider.script = append(r.provider.script, faults[rng.IntN(len(faults))])
			}
			if gone := []string{"", "", "live", "confirm"}[rng.IntN(4)]; gone != "" {
				r.goods.gone.Store(gone, true)
			}
			dying := r.payments(false)
			dying.at = func(at string) error {
				if at == point {
					return errCrash
				}
				return nil
			}
			ids = append(ids, r.accept(dying, r.seat()).ID)
			if due, err := dying.take(r.Context(), 1); err != nil {
				r.Fatal(err)
			} else if len(due) == 1 {
				dying.settle(r.Context(), due[0])
			}
		}
		one, two := r.payments(true), r.payments(true)
		states := map[State]int{}
		for i, id := range ids {
			states[r.final([]*Payments{one, two}[i%2], id).State]++
		}
		r.Logf("%v", states)
		if states[Captured] == 0 || len(states) < 3 {
			r.Errorf("the run met too little: %v", states)
		}
	})
}

// A worker that sleeps through its lease, at any step, wakes up when another has finished the
// payment. It does no harm: least of all does it give the money back.
func TestLateWorker(t *testing.T) {
	for _, point := range []string{"before authorise", "after authorise", "before confirm", "before capture", "after capture"} {
		t.Run(point, func(t *testing.T) {
			each(t, func(r *rig) {
				late, other := r.payments(false), r.payments(true)
				pay := r.accept(late, r.seat())
				slept := make(chan bool, 1)
				late.at = func(at string) error {
					if at == point {
						slept <- true
						r.final(other, pay.ID)
					}
					return nil
				}
				pay.source = "tok"
				late.settle(r.Context(), pay)
				if len(slept) == 0 {
					r.Fatal("it did not come by")
				}
				if got := r.final(other, pay.ID); got.State != Captured {
					r.Errorf("%+v", got)
				}
			})
		})
	}
}

// A worker that found the hold gone, and sleeps before it voids, has decided: nobody confirms
// what it gives back.
func TestLateVoid(t *testing.T) {
	each(t, func(r *rig) {
		late := r.payments(false)
		r.goods.gone.Store("confirm", true)
		pay := r.accept(late, r.seat())
		late.at = func(at string) error {
			if at == "before void" { // and the hold is back, as if the goods had changed their mind
				r.write(func(ctx context.Context, tx *sqldb.Tx) error {
					_, err := tx.Exec(ctx, `UPDATE seats SET state = 'held' WHERE id = $1`, pay.Hold)
					return err
				})
				other := r.payments(true)
				if got := r.final(other, pay.ID); got.State != Voided {
					r.Errorf("the other made it %+v", got)
				}
			}
			return nil
		}
		late.settle(r.Context(), pay)
		if got := r.final(late, pay.ID); got.State != Voided {
			r.Errorf("%+v", got)
		}
	})
}

func TestClose(t *testing.T) {
	each(t, func(r *rig) {
		p := r.payments(true)
		r.accept(p, r.seat())
		for range 2 {
			if err := p.Close(r.Context()); err != nil {
				r.Error(err)
			}
		}
		if _, err := p.Accept(r.Context(), r.request(r.seat())); !errors.Is(err, ErrClosed) {
			r.Errorf("after Close: %v", err)
		}
		other := r.payments(true) // what was left goes on elsewhere
		r.until("nothing is open", func() bool {
			var open int
			r.write(func(ctx context.Context, tx *sqldb.Tx) error {
				return tx.Row(ctx, `SELECT count(*) FROM payments WHERE state NOT IN ('captured', 'failed', 'voided', 'refunded')`).Scan(&open)
			})
			return open == 0
		})
		_ = other.Stats()
	})
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{Workers: -1}, {Workers: 1001}, {ProviderTimeout: -1}, {ProviderTimeout: time.Second, Lease: time.Second},
		{MinBackoff: time.Second, MaxBackoff: time.Millisecond},
	} {
		if _, err := New(nil, nil, nil, o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

// What is not settled is counted, by whichever process it was accepted, and has an age.
func TestUnsettled(t *testing.T) {
	each(t, func(r *rig) {
		p := r.payments(false)
		look := func(wantN int64, atLeast, atMost time.Duration) {
			r.Helper()
			n, oldest, err := p.Unsettled(r.Context())
			if err != nil || n != wantN || oldest < atLeast || oldest > atMost {
				r.Errorf("%d unsettled, the oldest of %s, %v; want %d of %s to %s", n, oldest, err, wantN, atLeast, atMost)
			}
		}
		look(0, 0, 0)
		old := r.accept(p, r.seat())
		young := r.accept(p, r.seat())
		r.write(func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE payments SET created_at = created_at - 600000000 WHERE id = $1`, old.ID)
			return err
		})
		look(2, 600*time.Second, 700*time.Second)
		p.Start()
		r.final(p, old.ID)
		r.final(p, young.ID)
		look(0, 0, 0)
	})
}
