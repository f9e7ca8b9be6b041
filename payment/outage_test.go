package payment

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

// What fails at once is no throughput: when the database is back there is no more in flight than
// was borne before, and not as much as could fail.
func TestAnOutageDoesNotOpenTheGate(t *testing.T) {
	db := sqldbtest.Open(t, sqldbtest.SQLite(t), sqldb.Options{})
	r := &rig{T: t, db: db, provider: newProvider(), goods: &seats{db: db}}
	p := r.payments(false)
	p.currencies.Store("EUR", true)    // or nothing comes as far as the gate
	if err := db.Close(); err != nil { // which is as good as gone
		t.Fatal(err)
	}
	before := p.gate.Limit()
	var all sync.WaitGroup
	failed := make([]int, 8)
	for i := range failed {
		all.Go(func() {
			for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); failed[i]++ {
				if _, err := p.Accept(context.Background(), r.request("seat")); !errors.Is(err, sqldb.ErrUnavailable) {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if after := p.gate.Limit(); after > before {
		t.Errorf("%d were let in at once before the outage, and %d after %d have failed", before, after, failed)
	}
}
