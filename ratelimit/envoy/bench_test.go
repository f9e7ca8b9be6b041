package envoy_test

import (
	"context"
	"testing"

	"github.com/holdfast-dev/holdfast/ratelimit/envoy"
)

const roomy = `
domain: bench
descriptors:
  - {key: user, rate_limit: {unit: second, requests_per_unit: 100000000}}
`

// One decision on the embedded engine in memory: by the Limiter itself, by the service without a network, and over gRPC on
// this machine, by one caller and by many.
func BenchmarkDecision(b *testing.B) {
	l := limiter(b, openStore(b, "mem:"), patient, roomy)
	in := ask("bench", "user=ada")
	ctx := context.Background()
	b.Run("allow", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			reqs, _ := l.Rules().Match("bench", 1, entriesOf(in)...)
			if d, err := l.Allow(ctx, reqs); err != nil || !d.Allowed {
				b.Fatal(d, err)
			}
		}
	})
	s := envoy.New(l, envoy.Options{})
	b.Run("service", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.ShouldRateLimit(ctx, in); err != nil {
				b.Fatal(err)
			}
		}
	})
	c := serve(b, l, envoy.Options{}, 0)
	b.Run("grpc", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.ShouldRateLimit(ctx, in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("grpc-64", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := c.ShouldRateLimit(ctx, in); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
