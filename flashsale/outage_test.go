package flashsale

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// What fails at once is no throughput: when the store is back there is no more in flight than was
// borne before, and not as much as could fail.
func TestAnOutageDoesNotOpenTheGate(t *testing.T) {
	redis := storetest.Redis(t)
	r := newRig(t, openStore(t, redis.URL()), sqldbtest.Open(t, sqldbtest.SQLite(t), sqldb.Options{}))
	s := r.sales(false, Options{})
	sale := r.sale(s, NewSale{Stock: 10, PerBuyer: 10})
	r.hold(s, sale.ID, "ada")
	redis.Kill()
	r.until("the store is known to be gone", func() bool {
		_, err := s.Hold(r.Context(), HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"})
		return errors.Is(err, store.ErrUnavailable)
	})
	before := s.gate.Limit()
	var all sync.WaitGroup
	failed := make([]int, 8)
	for i := range failed {
		req := HoldRequest{Key: r.key(), Sale: sale.ID, Buyer: "ada"}
		all.Go(func() {
			for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); failed[i]++ {
				if _, err := s.Hold(context.Background(), req); err == nil {
					t.Error("held without a store")
					return
				}
			}
		})
	}
	all.Wait()
	if after := s.gate.Limit(); after > before {
		r.Errorf("%d were let in at once before the outage, and %d after %d have failed", before, after, failed)
	}
}
