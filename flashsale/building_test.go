package flashsale

import (
	"fmt"
	"strings"
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

// The process that was building a gate is gone: two hundred buyers who wait for it are served once somebody else may take over,
// and until then the store is asked by one of them.
func TestBuyersWaitTogether(t *testing.T) {
	const buyers = 200
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
			var asked atomic.Int64
			storeURL, dbURL := c.engines(t)
			st, err := store.Open(t.Context(), storeURL, store.Options{Observe: func(decision string, _ time.Duration, _ error) {
				if strings.HasPrefix(decision, "flashsale.admit") || strings.HasPrefix(decision, "flashsale.build") {
					asked.Add(1)
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = st.Close() })
			r := newRig(t, st, sqldbtest.Open(t, dbURL, sqldb.Options{}))
			s := r.sales(false, Options{SQLTimeout: 10 * time.Second})
			sale := r.sale(s, NewSale{Stock: buyers, PerBuyer: 1})
			r.flush(sale.ID)
			r.begun(s, sale)
			asked.Store(0)
			began := time.Now()
			var all sync.WaitGroup
			for i := range buyers {
				all.Go(func() {
					req := HoldRequest{Key: fmt.Sprint("k", i), Sale: sale.ID, Buyer: fmt.Sprint("b", i)}
					if _, err := s.Hold(t.Context(), req); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			took := time.Since(began)
			t.Logf("%d buyers, %d questions, %s", buyers, asked.Load(), took)
			if looks := int64(took / gatePoll); asked.Load() > 3*buyers+looks+10 {
				t.Errorf("the store was asked %d times", asked.Load())
			}
			if took > buildPatience*time.Microsecond+2*time.Second {
				t.Errorf("only after %s", took)
			}
		})
	}
}

// A builder that waits for SQL is not followed, however long that takes; one that has stopped is.
func TestABuilderThatLives(t *testing.T) {
	pair(t, func(r *rig) {
		s, other := r.sales(false, Options{}), r.sales(false, Options{})
		sale := r.sale(s, NewSale{Stock: 1})
		theirs, err := other.terms(r.Context(), sale.ID)
		if err != nil {
			r.Fatal(err)
		}
		r.flush(sale.ID)
		in := r.begun(s, sale)
		stop := s.keepBuilding(r.Context(), in)
		for ends := time.Now().Add(2 * buildPatience * time.Microsecond); time.Now().Before(ends); time.Sleep(gatePoll) {
			if open, err := other.buildGate(r.Context(), theirs); open || err != nil {
				r.Fatalf("another took it over, or failed: %v, %v", open, err)
			}
		}
		stop()
		r.until("another builds it", func() bool {
			open, err := other.buildGate(r.Context(), theirs)
			if err != nil {
				r.Fatal(err)
			}
			return open
		})
		in.Step = "add"
		if out, err := build.Do(r.Context(), s.store, in); err != nil || out.Done {
			r.Errorf("the first one still adds: %+v, %v", out, err)
		}
	})
}
