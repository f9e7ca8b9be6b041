package store_test

import (
	"fmt"
	"testing"

	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// BenchmarkRemote makes decisions on one key of a server on a unix socket that keeps nothing
// on disk: a single command, and a script.
func BenchmarkRemote(b *testing.B) {
	server := storetest.Redis(b)
	s, err := store.Open(b.Context(), server.URL(), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	kinds := map[string]func() error{
		"command": func() error {
			_, err := count.Do(b.Context(), s, countIn{"{k}", 1})
			return err
		},
		"script": func() error {
			_, err := op.Do(b.Context(), s, opIn{Key: "{s}", Other: "{s}2", Op: "incr", Args: []string{"1"}})
			return err
		},
	}
	for name, decide := range kinds {
		for _, callers := range []int{1, 32, 512} { // for each processor
			b.Run(fmt.Sprintf("%s/callers=%d", name, callers), func(b *testing.B) {
				b.SetParallelism(callers)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := decide(); err != nil {
							b.Error(err)
							return
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
			})
		}
	}
}
