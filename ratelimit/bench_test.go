package ratelimit_test

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

// One decision on the embedded engine in memory, by one rule and by five, by one caller and by 64.
func BenchmarkAllow(b *testing.B) {
	s, err := openMem()
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var rules []ratelimit.Rule
	var reqs []ratelimit.Request
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		rules = append(rules, ratelimit.Rule{Name: name, Quota: ratelimit.Quota{Limit: 1_000_000, Window: time.Second}})
		reqs = append(reqs, req(name, "hot", 1))
	}
	set, err := ratelimit.NewRules(rules...)
	if err != nil {
		b.Fatal(err)
	}
	l, err := ratelimit.New(s, set, patient)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close(context.Background()) }()
	for _, c := range []struct {
		name string
		reqs []ratelimit.Request
	}{{"one", reqs[:1]}, {"five", reqs}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Allow(context.Background(), c.reqs); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+" by 64", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := l.Allow(context.Background(), c.reqs); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
