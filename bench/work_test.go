package bench

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// callers has n goroutines call fn for d, and says how often a second they did. i is of the
// caller, n of all calls so far.
func callers(t *testing.T, n int, d time.Duration, fn func(i int, n int64) error) (rate float64) {
	t.Helper()
	var made atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	stop := began.Add(d)
	for i := range n {
		all.Go(func() {
			for time.Now().Before(stop) {
				if err := fn(i, made.Add(1)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return float64(made.Load()) / time.Since(began).Seconds()
}
