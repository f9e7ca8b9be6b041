package flashsale

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// begun is a gate that somebody has begun to build.
func (r *rig) begun(s *Sales, sale Sale) buildIn {
	r.Helper()
	in := buildIn{
		Permits: permitsKey(sale.ID), Spent: spentKey(sale.ID), Gate: gateKey(sale.ID),
		KeyLife: s.opts.KeyLife.Microseconds(), Step: "begin", Gen: "another", Cap: sale.Stock,
	}
	if out, err := build.Do(r.Context(), r.store, in); err != nil || !out.Done {
		r.Fatal(out, err)
	}
	return in
}

// observed runs a test as pair does; what is called for each decision of the store is replaced by setting it.
func observed(t *testing.T, fn func(r *rig, decided *atomic.Pointer[func(decision string)])) {
	for _, c := range []struct {
		name    string
		engines func(t *testing.T) (storeURL, dbURL string)
	}{
		{"embedded", func(t *testing.T) (string, string) { return "mem:", sqldbtest.SQLite(t) }},
		{"redis and PostgreSQL", func(t *testing.T) (string, string) {
			return storetest.Redis(t).URL(), sqldbtest.Shared(t).NewSchema(t)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var decided atomic.Pointer[func(decision string)]
			storeURL, dbURL := c.engines(t)
			st, err := store.Open(t.Context(), storeURL, store.Options{Observe: func(decision string, _ time.Duration, _ error) {
				if call := decided.Load(); call != nil {
					(*call)(decision)
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = st.Close() })
			fn(newRig(t, st, sqldbtest.Open(t, dbURL, sqldb.Options{})), &decided)
		})
	}
}

// The process that was building a gate is gone: two hundred buyers who wait for it are served once somebody else may take over,
// and until then the store is asked by one of them.
func TestBuyersWaitTogether(t *testing.T) {
	const buyers = 200
	observed(t, func(r *rig, decided *atomic.Pointer[func(string)]) {
		var asked, tries atomic.Int64
		s := r.sales(false, Options{})
		sale := r.sale(s, NewSale{Stock: buyers, PerBuyer: 1})
		r.flush(sale.ID)
		r.begun(s, sale)
		count := func(decision string) {
			if decision == "flashsale.admit" || decision == "flashsale.build" {
				asked.Add(1)
			}
		}
		decided.Store(&count)
		began := time.Now()
		var all sync.WaitGroup
		for i := range buyers {
			all.Go(func() {
				req := HoldRequest{Key: fmt.Sprint("k", i), Sale: sale.ID, Buyer: fmt.Sprint("b", i)}
				for err := errCrash; err != nil; {
					tries.Add(1)
					if _, err = s.Hold(r.Context(), req); err != nil && time.Since(began) > 10*time.Second {
						r.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		took := time.Since(began)
		r.Logf("%d buyers, %d tries, %d questions, %s", buyers, tries.Load(), asked.Load(), took)
		if looks := int64(took / gatePoll); asked.Load() > 3*tries.Load()+looks+10 || tries.Load() > 3*buyers {
			r.Errorf("the store was asked %d times, in %d tries", asked.Load(), tries.Load())
		}
		if took > buildPatience*time.Microsecond+4*time.Second {
			r.Errorf("only after %s", took)
		}
	})
}

// Those who wait for a gate are told that the process closes.
func TestBuyersWhoWaitWhenItCloses(t *testing.T) {
	pair(t, func(r *rig) {
		s := r.sales(false, Options{SQLTimeout: 15 * time.Second, PermitLife: 20 * time.Second})
		sale := r.sale(s, NewSale{Stock: 1})
		r.flush(sale.ID)
		in := r.begun(s, sale)
		defer r.sales(false, Options{}).keepBuilding(r.Context(), in)()
		told := make(chan error)
		go func() {
			_, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"})
			told <- err
		}()
		terms, err := s.terms(r.Context(), sale.ID)
		if err != nil {
			r.Fatal(err)
		}
		r.until("she waits", func() bool { terms.mu.Lock(); defer terms.mu.Unlock(); return terms.building != nil })
		if err := s.Close(); err != nil {
			r.Fatal(err)
		}
		if err := <-told; !errors.Is(err, ErrClosed) {
			r.Errorf("she was told %v", err)
		}
	})
}

// A builder that waits for SQL is not followed, however long that takes.
func TestABuilderThatLives(t *testing.T) {
	pair(t, func(r *rig) {
		s, other := r.sales(false, Options{}), r.sales(false, Options{})
		sale := r.sale(s, NewSale{Stock: 1})
		var mine, theirs *terms
		for _, of := range []struct {
			s *Sales
			t **terms
		}{{s, &mine}, {other, &theirs}} {
			var err error
			if *of.t, err = of.s.terms(r.Context(), sale.ID); err != nil {
				r.Fatal(err)
			}
		}
		r.flush(sale.ID)
		conns := int64(4) // as package sqldb has them by default
		if r.db.Dialect() == sqldb.PostgreSQL {
			conns = 16
		}
		var taken atomic.Int64
		free, all := make(chan struct{}), sync.WaitGroup{}
		for range conns {
			all.Go(func() {
				_ = r.db.Read(r.Context(), func(ctx context.Context, _ *sqldb.Tx) error {
					taken.Add(1)
					select {
					case <-free:
					case <-ctx.Done():
					}
					return nil
				})
			})
		}
		r.until("nobody else has a connection", func() bool { return taken.Load() >= conns })
		built := make(chan error, 1)
		all.Go(func() {
			open, err := s.buildGate(r.Context(), mine)
			if !open && err == nil {
				err = errCrash
			}
			built <- err
		})
		r.until("it builds", func() bool {
			mine.mu.Lock()
			defer mine.mu.Unlock()
			out, err := build.Do(r.Context(), r.store, buildIn{
				Permits: permitsKey(sale.ID), Spent: spentKey(sale.ID), Gate: gateKey(sale.ID),
				KeyLife: s.opts.KeyLife.Microseconds(), Step: "add", Gen: mine.givenUp,
			})
			return err == nil && out.Done
		})
		for ends := time.Now().Add(2 * buildPatience * time.Microsecond); time.Now().Before(ends); time.Sleep(gatePoll) {
			if open, err := other.buildGate(r.Context(), theirs); open || err != nil {
				r.Errorf("another took it over, or failed: %v, %v", open, err)
				break
			}
		}
		close(free)
		all.Wait()
		if err := <-built; err != nil {
			r.Errorf("the builder ended with %v", err)
		}
	})
}
