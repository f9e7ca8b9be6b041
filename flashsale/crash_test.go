package flashsale

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// errCrash is returned where the process would be gone.
var errCrash = errors.New("crashed by a test")

// crashing makes Sales that die at a point.
func (r *rig) crashing(point string) *Sales {
	s := r.sales(false, Options{})
	s.at = func(at string) error {
		if at == point {
			return errCrash
		}
		return nil
	}
	return s
}

// Whatever a process does last, the next one finds a sale that agrees: a repeat gets a unit or
// the one that it has, and in the end permits are as many as rows.
func TestCrashes(t *testing.T) {
	for _, point := range []string{"admitted", "reserved", "released", "expired"} {
		t.Run(point, func(t *testing.T) {
			pair(t, func(r *rig) {
				dying := r.crashing(point)
				sale := r.sale(dying, NewSale{Stock: 3, HoldSeconds: 1})
				req := HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"}
				held, err := dying.Hold(r.Context(), req)
				switch point {
				case "admitted", "reserved":
					if !errors.Is(err, errCrash) {
						r.Fatalf("got %v", err)
					}
				case "released":
					if err := dying.Release(r.Context(), sale.ID, held.Hold.ID); !errors.Is(err, errCrash) {
						r.Fatalf("got %v", err)
					}
				case "expired":
					r.until("expired", func() bool {
						err := dying.expire(r.Context())
						return errors.Is(err, errCrash)
					})
				}
				_ = dying.Close()
				s := r.sales(true, Options{})
				again, err := s.Hold(r.Context(), req)
				if err != nil {
					r.Fatalf("the repeat: %v", err)
				}
				if point != "admitted" && !again.Replayed {
					r.Error("a second hold for one key")
				}
				if held.Answer != nil && !bytes.Equal(held.Answer, again.Answer) {
					r.Errorf("%s became %s", held.Answer, again.Answer)
				}
				r.agree(s, sale.ID)
			})
		})
	}
}

// agree waits until the store has as many permits as SQL has holds and orders.
func (r *rig) agree(s *Sales, sale string) {
	r.Helper()
	t, err := s.terms(r.Context(), sale)
	if err != nil {
		r.Fatal(err)
	}
	if err := s.buildOrWait(r.Context(), t); err != nil { // it may have been forgotten since the last buyer
		r.Fatal(err)
	}
	var said string
	defer func() { r.Log(said) }()
	r.until("permits agree with rows", func() bool {
		held, sold := r.numbers(sale)
		live, forever := r.permits(sale)
		said = fmt.Sprintf("%d held, %d sold; %d permits, of which %d without a deadline", held, sold, live, forever)
		return live == held+sold && forever == sold
	})
}

// A permit whose row never came lapses, and its unit is sold to somebody else.
func TestNothingLeaks(t *testing.T) {
	pair(t, func(r *rig) {
		dying := r.crashing("admitted")
		sale := r.sale(dying, NewSale{Stock: 1})
		if _, err := dying.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"}); !errors.Is(err, errCrash) {
			r.Fatalf("got %v", err)
		}
		s := r.sales(true, Options{})
		began := time.Now()
		req := HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "bob"}
		if _, err := s.Hold(r.Context(), req); !errors.Is(err, ErrSoldOut) {
			r.Fatalf("while the permit lives: %v", err)
		}
		r.until("bob gets it", func() bool {
			_, err := s.Hold(r.Context(), req)
			return err == nil
		})
		if took := time.Since(began); took > 7*time.Second {
			r.Errorf("only after %s", took)
		}
	})
}

// The store forgets the sale again and again while buyers come: nothing is oversold, every
// answer is kept, and permits agree with rows in the end.
func TestStoreForgets(t *testing.T) {
	pair(t, func(r *rig) {
		servers := []*Sales{r.sales(true, Options{}), r.sales(true, Options{})}
		const stock, buyers, flushEvery = 40, 120, 30
		sale := r.sale(servers[0], NewSale{Stock: stock})
		var mu sync.Mutex
		answers := map[string]string{}
		var buying sync.WaitGroup
		var work atomic.Int64
		for range 16 {
			buying.Go(func() {
				for i := work.Add(1); i <= 2*buyers; i = work.Add(1) {
					if i%flushEvery == 0 {
						r.flush(sale.ID)
					}
					req := HoldRequest{Key: fmt.Sprintf("k%d", i/2), Sale: sale.ID, Buyer: fmt.Sprintf("b%d", i/2)}
					h, err := servers[i%2].Hold(r.Context(), req)
					if err != nil {
						if !errors.Is(err, ErrSoldOut) && !errors.Is(err, ErrInFlight) {
							r.Error(err)
						}
						continue
					}
					mu.Lock()
					if was := answers[req.Key]; was != "" && was != string(h.Answer) {
						r.Errorf("%s: %s, then %s", req.Key, was, h.Answer)
					}
					answers[req.Key] = string(h.Answer)
					mu.Unlock()
				}
			})
		}
		buying.Wait()
		if held, _ := r.numbers(sale.ID); held != stock || len(answers) != stock {
			r.Errorf("%d held, %d answers", held, len(answers))
		}
		if servers[0].Stats().Rebuilt+servers[1].Stats().Rebuilt < 2 {
			r.Error("the gate was never built again")
		}
		r.agree(servers[0], sale.ID)
	})
}

// While the store is away nothing is given, and nothing has to be mended by hand afterwards.
func TestStoreGone(t *testing.T) {
	pair(t, func(r *rig) {
		gone, err := store.Open(r.Context(), "mem:", store.Options{})
		if err != nil {
			r.Fatal(err)
		}
		s, err := New(gone, r.db, Options{})
		if err != nil {
			r.Fatal(err)
		}
		sale := r.sale(s, NewSale{Stock: 1})
		if err := gone.Close(); err != nil {
			r.Fatal(err)
		}
		if _, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"}); err == nil {
			r.Error("a hold without a store")
		}
		if held, _ := r.numbers(sale.ID); held != 0 {
			r.Errorf("%d held", held)
		}
		_ = s.Close()
	})
}

// Releases, expiry, payments and buyers at the same time, on two processes, with a store that
// forgets: a random run. Its seed is printed.
func TestEverythingAtOnce(t *testing.T) {
	pair(t, func(r *rig) {
		seed := rand.Uint64()
		r.Logf("seed %d", seed)
		servers := []*Sales{r.sales(true, Options{}), r.sales(true, Options{})}
		sale := r.sale(servers[0], NewSale{Stock: 10, PerBuyer: 3, HoldSeconds: 1})
		ends := time.Now().Add(4 * time.Second)
		var wg sync.WaitGroup
		deeds := &deck{rng: rand.New(rand.NewPCG(seed, 8))}
		for worker := range 8 {
			rng := rand.New(rand.NewPCG(seed, uint64(worker)))
			wg.Go(func() {
				for n := 0; time.Now().Before(ends); n++ {
					r.buyer(rng, deeds, servers[rng.IntN(2)], sale, fmt.Sprintf("w%d-%d", worker, n))
				}
			})
		}
		wg.Wait()
		r.agree(servers[0], sale.ID)
		if _, sold := r.numbers(sale.ID); sold == 0 {
			r.Error("nothing was sold")
		}
		if a, b := servers[0].Stats(), servers[1].Stats(); a.Expired+b.Expired == 0 || a.Released+b.Released == 0 || a.Cancelled+b.Cancelled == 0 {
			r.Errorf("the run had no expiry, release or cancellation: %+v, %+v", a, b)
		}
	})
}

// deck deals what a buyer does with a hold, shuffled, so that a short run has all of it. Most
// units come back, which keeps the sale going.
type deck struct {
	mu   sync.Mutex
	rng  *rand.Rand
	left []string
}

func (d *deck) deal() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.left) == 0 {
		d.left = []string{"vanish", "release", "cancel", "pay", "vanish", "release", "cancel", "cancel"}
		d.rng.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	deed := d.left[0]
	d.left = d.left[1:]
	return deed
}

// buyer takes a hold and does with it what the deck says. A database that is busy for as long as
// a call waits refuses it, which is no fault of the sale.
func (r *rig) buyer(rng *rand.Rand, deeds *deck, s *Sales, sale Sale, key string) {
	if rng.IntN(100) == 0 {
		r.flush(sale.ID)
	}
	ctx := r.Context()
	h, err := s.Hold(ctx, HoldRequest{Key: key, Sale: sale.ID, Buyer: fmt.Sprintf("b%d", rng.IntN(12))})
	if err != nil {
		if !errors.Is(err, ErrSoldOut) && !errors.Is(err, ErrLimit) && !errors.Is(err, ErrInFlight) && !errors.Is(err, sqldb.ErrBusy) {
			r.Error(err)
		}
		return
	}
	switch deed := deeds.deal(); deed {
	case "vanish":
	case "release":
		if err := s.Release(ctx, sale.ID, h.Hold.ID); err != nil && !errors.Is(err, sqldb.ErrBusy) {
			r.Error(err)
		}
	default:
		c := payment.Claim{Payment: key, Hold: h.Hold.ID, Buyer: h.Hold.Buyer, Amount: sale.Price, Currency: sale.Currency}
		if err := r.pay(ctx, s, c, deed == "cancel"); err != nil && !errors.Is(err, payment.ErrHoldGone) {
			r.Error(err)
		}
	}
}

// pay takes the steps that package payment takes; in the end the order may be cancelled.
func (r *rig) pay(ctx context.Context, s *Sales, c payment.Claim, cancel bool) error {
	write := func(fn func(context.Context, *sqldb.Tx) error) error { return r.db.Write(ctx, fn) }
	err := write(func(ctx context.Context, tx *sqldb.Tx) error { return first(s.Attach(ctx, tx, []payment.Claim{c})) })
	if err == nil {
		err = s.BeforeConfirm(ctx, c)
	}
	if err == nil {
		err = write(func(ctx context.Context, tx *sqldb.Tx) error {
			_, refused, err := s.Confirm(ctx, tx, []payment.Claim{c})
			return first(refused, err)
		})
	}
	if err == nil && !cancel {
		return nil
	}
	ctx = context.WithoutCancel(ctx) // a payment that began always comes to an end
	abandoned := r.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error { return s.Abandon(ctx, tx, c) })
	s.After(ctx, c)
	return errors.Join(err, abandoned)
}

// first is what became of the only one.
func first(refused []error, err error) error {
	if err == nil {
		err = refused[0]
	}
	return err
}

// A hold whose confirmation has begun in time and commits late is not expired by whoever saw it
// before.
func TestExpiryWaitsForAConfirmation(t *testing.T) {
	pair(t, func(r *rig) {
		s := r.sales(false, Options{})
		sale := r.sale(s, NewSale{Stock: 1, HoldSeconds: 1})
		h, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"})
		if err != nil {
			r.Fatal(err)
		}
		c := payment.Claim{Payment: "p-" + h.Hold.ID, Hold: h.Hold.ID, Buyer: "ada", Amount: sale.Price, Currency: sale.Currency}
		err = r.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			return first(s.Attach(ctx, tx, []payment.Claim{c}))
		})
		if err != nil {
			r.Fatal(err)
		}
		expired := make(chan error, 1)
		time.Sleep(time.Until(h.Hold.ExpiresAt.Add(-300 * time.Millisecond))) // its time is what is tested
		err = r.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			if _, refused, err := s.Confirm(ctx, tx, []payment.Claim{c}); first(refused, err) != nil {
				return first(refused, err)
			}
			time.Sleep(time.Until(h.Hold.ExpiresAt.Add(20 * time.Millisecond)))
			go func() { expired <- s.expire(context.Background()) }()
			time.Sleep(200 * time.Millisecond) // it meets the row, and waits
			return nil
		})
		if err := errors.Join(err, <-expired); err != nil {
			r.Fatal(err)
		}
		if held, sold := r.numbers(sale.ID); held != 0 || sold != 1 {
			r.Errorf("%d are held and %d sold: what had been confirmed was expired", held, sold)
		}
	})
}

// A hold that was live when a payment was decided can be paid for, also when its time is over
// before the transaction is.
func TestAttachAtTheLastMoment(t *testing.T) {
	pair(t, func(r *rig) {
		s := r.sales(false, Options{})
		sale := r.sale(s, NewSale{Stock: 1, HoldSeconds: 1})
		h, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"})
		if err != nil {
			r.Fatal(err)
		}
		c := payment.Claim{Payment: "p-" + h.Hold.ID, Hold: h.Hold.ID, Buyer: "ada", Amount: sale.Price, Currency: sale.Currency}
		time.Sleep(time.Until(h.Hold.ExpiresAt.Add(-200 * time.Millisecond))) // its time is what is tested
		err = r.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			holds, err := findHolds(ctx, tx, []payment.Claim{c}, tx.ForUpdate())
			if err != nil || !holds[c.Hold].live {
				return fmt.Errorf("%+v %w", holds[c.Hold], err)
			}
			time.Sleep(time.Until(h.Hold.ExpiresAt.Add(10 * time.Millisecond)))
			var list sqldb.Rows
			list.Add(c.Hold, c.Payment)
			return bind(ctx, tx, list)
		})
		if err != nil {
			r.Error(err)
		}
	})
}

// Transactions that want the same holds, in whatever order they were given them, wait for each
// other in one direction only: none is run again because two had met head on.
func TestNoDeadlocks(t *testing.T) {
	pair(t, func(r *rig) {
		s := r.sales(false, Options{})
		const units = 12
		sale := r.sale(s, NewSale{Stock: units, PerBuyer: units})
		claims := make([]payment.Claim, units)
		for i := range claims {
			h := r.hold(s, sale.ID, "ada")
			claims[i] = payment.Claim{Payment: "p-" + h.Hold.ID, Hold: h.Hold.ID, Buyer: "ada", Amount: sale.Price, Currency: sale.Currency}
		}
		var runs atomic.Int64
		write := func(fn func(ctx context.Context, tx *sqldb.Tx) error) {
			err := r.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
				runs.Add(1)
				return fn(ctx, tx)
			})
			if err != nil {
				r.Error(err)
			}
		}
		attach := func(claims []payment.Claim) {
			write(func(ctx context.Context, tx *sqldb.Tx) error {
				_, err := s.Attach(ctx, tx, claims)
				return err
			})
		}
		attach(claims)
		const rounds = 4
		for range rounds {
			var both sync.WaitGroup
			both.Go(func() { // as a worker settles: the later half becomes orders
				write(func(ctx context.Context, tx *sqldb.Tx) error {
					backwards := slices.Clone(claims)
					slices.Reverse(backwards)
					_, _, err := s.Confirm(ctx, tx, backwards[:units/2])
					time.Sleep(50 * time.Millisecond)
					return err
				})
			})
			time.Sleep(10 * time.Millisecond)
			both.Go(func() { attach(claims) })
			both.Go(func() {
				write(func(ctx context.Context, tx *sqldb.Tx) error { return s.Abandon(ctx, tx, claims[units-1]) })
			})
			both.Wait()
		}
		if n := runs.Load(); n != 1+3*rounds {
			r.Errorf("%d transactions were run %d times", 1+3*rounds, n)
		}
	})
}
