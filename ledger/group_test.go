package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dev/holdfast/ledger"
)

// Callers that share transactions: each id has one effect, nobody is overdrawn, and who is
// refused is refused alone.
func TestGroup(t *testing.T) {
	each(t, func(t *testing.T, b *bank) {
		b.does(fund("f", "ada", 100), nil)
		group := ledger.Group(b.db)
		var all sync.WaitGroup
		var fresh, replayed, refused atomic.Int64
		for i := range 400 { // each id twice; 100 of 200 are covered
			all.Go(func() {
				out, err := group.Do(context.Background(), pay(fmt.Sprintf("t%d", i/2), "ada", "bob", 1))
				switch {
				case errors.Is(err, ledger.ErrInsufficient):
					refused.Add(1)
				case err != nil:
					t.Error(err)
				case out.Replayed:
					replayed.Add(1)
				default:
					fresh.Add(1)
				}
			})
		}
		all.Wait()
		if fresh.Load() != 100 || fresh.Load()+replayed.Load()+refused.Load() != 400 {
			t.Errorf("%d done, %d repeated, %d refused", fresh.Load(), replayed.Load(), refused.Load())
		}
		if got := b.balance("bob").PostedCredits; got != 100 {
			t.Errorf("bob has %d", got)
		}
	})
}
