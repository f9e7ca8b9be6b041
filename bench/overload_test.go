package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

// patience is how long a buyer waits in overloadGroup.
const patience = 200 * time.Millisecond

// turns gives each turn a name of its own, and so a directory.
var turns atomic.Int64

// overloadGroup: buyers who come at a rate, however long the others wait, and leave after 200 ms.
var overloadGroup = group{
	title: "More buyers than can be served",
	unit:  "holds/s in time",
	note: "In the process, `file:` and SQLite, new ones for each turn. \"Saturated\" is 400 callers, each asking again " +
		"as soon as it has an answer; the others come at a multiple of that rate and wait 200 ms at most.",
	open: func(t *testing.T) []*measure {
		var peak atomic.Int64
		rows := []*measure{{name: "saturated", run: func(t *testing.T, d time.Duration) float64 {
			rate := saturate(t, d)
			peak.Store(int64(rate))
			return rate
		}}}
		for _, times := range []float64{0.7, 2, 4} {
			rows = append(rows, &measure{
				name: fmt.Sprintf("at %.1f times that", times), of: "saturated",
				run: func(t *testing.T, d time.Duration) float64 { return overload(t, times*float64(peak.Load()), d) },
			})
		}
		return rows
	},
}

// buyers make a shop of their own for each turn.
func buyers(t *testing.T) func(ctx context.Context) error {
	s := engine{"", "file:" + t.TempDir(), sqldbtest.SQLite(t)}.shop(t)
	id := s.sale(t, 1_000_000)
	return func(ctx context.Context) error {
		who := fmt.Sprint(s.n.Add(1))
		_, err := s.sales.Hold(ctx, flashsale.HoldRequest{Key: who, Sale: id, Buyer: who})
		return err
	}
}

func saturate(t *testing.T, d time.Duration) (rate float64) {
	t.Run(fmt.Sprint("turn ", turns.Add(1)), func(t *testing.T) {
		buy := buyers(t)
		var done atomic.Int64
		var all sync.WaitGroup
		began := time.Now()
		for range 400 {
			all.Go(func() {
				for time.Since(began) < d {
					if buy(context.Background()) == nil {
						done.Add(1)
						continue
					}
					time.Sleep(10 * time.Millisecond) // it was told to come later
				}
			})
		}
		all.Wait()
		rate = float64(done.Load()) / time.Since(began).Seconds()
	})
	return rate
}

func overload(t *testing.T, rate float64, d time.Duration) (inTime float64) {
	t.Run(fmt.Sprint("turn ", turns.Add(1)), func(t *testing.T) {
		buy := buyers(t)
		var done atomic.Int64
		var all sync.WaitGroup
		began := time.Now()
		for sent := 0; time.Since(began) < d; time.Sleep(time.Millisecond) {
			for ; sent < int(time.Since(began).Seconds()*rate); sent++ {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					if buy(ctx) == nil && ctx.Err() == nil {
						done.Add(1)
					}
				})
			}
		}
		all.Wait()
		inTime = float64(done.Load()) / d.Seconds()
	})
	return inTime
}
