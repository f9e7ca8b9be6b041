package store

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

type takeIn struct {
	Key                 string `store:"key"`
	Period, Burst, Cost int64
}
type takeOut struct{ OK, Wait int64 }

var take = Decide("bench.take", Lua(""), func(tx *Tx, in takeIn) takeOut {
	now := tx.Now()
	tat := max(tx.Int(in.Key), now) + in.Period*in.Cost
	if wait := tat - now - in.Period*in.Burst; wait > 0 {
		return takeOut{Wait: wait}
	}
	tx.SetInt(in.Key, tat, Until(tat))
	return takeOut{OK: 1}
})

// BenchmarkDecide makes GCRA decisions on 1,000 keys, or on one.
func BenchmarkDecide(b *testing.B) {
	for _, engine := range []string{"mem", "file"} {
		for _, keys := range []int{1, 1000} {
			for _, callers := range []int{1, 64, 1000} {
				b.Run(fmt.Sprintf("%s/keys=%d/callers=%d", engine, keys, callers), func(b *testing.B) {
					url := "mem:"
					if engine == "file" {
						url = "file:" + b.TempDir()
					}
					benchDecide(b, url, keys, callers)
				})
			}
		}
	}
}

func benchDecide(b *testing.B, url string, keys, callers int) {
	s, err := Open(context.Background(), url, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	names := make([]string, keys)
	for i := range names {
		names[i] = fmt.Sprintf("{rule-%d}:tat", i)
	}
	var n atomic.Int64
	b.SetParallelism(max(1, callers/2)) // times two processors
	b.ReportAllocs()
	b.ResetTimer()
	used := processorTime()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, err := take.Do(context.Background(), s, takeIn{names[n.Add(1)%int64(keys)], 1, 1 << 20, 1})
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
	b.ReportMetric(float64((processorTime()-used).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// processorTime is what this process has used: on a machine with other work it says more than
// the time that passed.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
