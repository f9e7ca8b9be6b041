package envoy_test

import (
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-dev/holdfast/ratelimit/envoy"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// hits gives a descriptor its own hits_addend.
func hits(in *pb.RateLimitRequest, at int, n uint64) *pb.RateLimitRequest {
	in.Descriptors[at].HitsAddend = wrapperspb.UInt64(n)
	return in
}

const budget = `
domain: budget
descriptors:
  - {key: model, rate_limit: {unit: day, requests_per_unit: 100}}
  - {key: only, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: user, rate_limit: {unit: day, requests_per_unit: 50}}
  - {key: bucket, rate_limit: {algorithm: token-bucket, window: 24h, requests_per_unit: 100, burst: 10}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: none, rate_limit: {unit: day, requests_per_unit: 0}}
  - {key: watched, shadow_mode: true, rate_limit: {unit: day, requests_per_unit: 5}}
`

func TestHits(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		c := serve(t, limiter(t, s, patient, budget), envoy.Options{}, 0)
		in := ask("budget", "model=a", "user=ada")
		in.HitsAddend = 7
		c.call(t, hits(in, 1, 3))
		if m, u := c.left(t, "budget", "model=a"), c.left(t, "budget", "user=ada"); m != 93 || u != 47 {
			t.Errorf("%d and %d left, not 93 and 47", m, u)
		}
		in = hits(ask("budget", "model=a", "user=ada"), 1, 0) // one takes, the other looks
		if out := c.call(t, in); out.OverallCode != pb.RateLimitResponse_OK || out.Statuses[0].LimitRemaining != 92 || out.Statuses[1].LimitRemaining != 47 {
			t.Errorf("%v", out)
		}
		for _, over := range []*pb.RateLimitRequest{
			{HitsAddend: 94}, {HitsAddend: 101}, {HitsAddend: 4_000_000_000}, // too much now, too much ever, above every limit
		} {
			over.Domain, over.Descriptors = "budget", ask("budget", "model=a").Descriptors
			out := c.call(t, over)
			if out.OverallCode != pb.RateLimitResponse_OVER_LIMIT || out.Statuses[0].LimitRemaining != 92 {
				t.Errorf("%d hits: %v", over.HitsAddend, out)
			}
		}
		in = ask("budget", "only=a", "only=a") // two that look are as one
		if out := c.call(t, hits(hits(in, 0, 0), 1, 0)); out.OverallCode != pb.RateLimitResponse_OK {
			t.Errorf("%v", out)
		}
		for descriptor, want := range map[string]pb.RateLimitResponse_Code{"bucket=b": pb.RateLimitResponse_OVER_LIMIT, "free=a": pb.RateLimitResponse_OK,
			"none=a": pb.RateLimitResponse_OVER_LIMIT, "watched=a": pb.RateLimitResponse_OK, "user=b": pb.RateLimitResponse_OVER_LIMIT} {
			in := ask("budget", descriptor, descriptor) // 30 each: for some too much only together
			in.HitsAddend = 30
			if out := c.call(t, in); out.OverallCode != want {
				t.Errorf("%s: %v", descriptor, out)
			}
		}
	})
}

// Envoy reports what a response came to when it is over (apply_on_stream_done): that has happened, so a budget
// counts it also when it has less left, and the budgets beside it do too.
func TestReports(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		c := serve(t, limiter(t, s, patient, budget), envoy.Options{}, 0)
		report := func(n uint64, descriptors ...string) {
			t.Helper()
			in := ask("budget", descriptors...)
			for i := range descriptors {
				hits(in, i, n)
			}
			c.call(t, in)
		}
		may := func(descriptor string) bool {
			t.Helper()
			return c.call(t, hits(ask("budget", descriptor), 0, 0)).OverallCode == pb.RateLimitResponse_OK
		}
		report(40, "user=ada", "model=a")
		if !may("user=ada") || !may("model=a") {
			t.Fatal("10 and 60 are left")
		}
		report(40, "user=ada", "model=a")
		if may("user=ada") {
			t.Error("80 of 50 have happened, and more is let in")
		}
		if n := c.left(t, "budget", "model=a"); n != 20 {
			t.Errorf("the other budget has %d left of 100, of which 80 have happened", n)
		}
		report(40, "user=ada", "model=a") // one has nothing left to count from, the other has
		if may("model=a") {
			t.Error("120 of 100 have happened, and more is let in")
		}
		report(500, "user=bob")
		if may("user=bob") {
			t.Error("more than it admits in all has happened, and more is let in")
		}
		report(1<<63, "user=eve", "free=x", "none=x", "watched=x")
		if may("user=eve") || !may("free=x") || may("none=x") || !may("watched=x") {
			t.Error("a number that is too large")
		}
	})
}

func TestOverride(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		c := serve(t, limiter(t, s, patient, budget), envoy.Options{}, 0)
		with := func(n uint32, unit typev3.RateLimitUnit, times uint32, domain, descriptor string) *pb.RateLimitRequest {
			in := ask(domain, descriptor)
			in.Descriptors[0].Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: n, Unit: unit}
			if times > 0 {
				in.Descriptors[0].Limit.UnitMultiplier = wrapperspb.UInt32(times)
			}
			return in
		}
		day := typev3.RateLimitUnit_DAY
		for _, e := range []struct {
			in   *pb.RateLimitRequest
			want int
		}{
			{with(2, day, 0, "budget", "model=a"), 2}, {with(3, day, 0, "budget", "model=a"), 1}, // the same count
			{with(2, day, 30, "budget", "model=a"), 2}, {with(4, day, 0, "budget", "unknown=a more=b"), 4},
			{with(0, day, 0, "budget", "model=b"), 0}, {with(2, day, 0, "nowhere", "model=a"), 6}, {ask("budget", "model=a"), 6},
			{with(2, day, 0, "budget", "watched=a"), 2}, {with(2, typev3.RateLimitUnit_YEAR, 0, "budget", "model=c"), 2},
		} {
			if got := c.admitted(t, e.in); got != e.want {
				t.Errorf("%v: %d of 6 are OK, not %d", e.in, got, e.want)
			}
		}
		out := c.call(t, with(9, typev3.RateLimitUnit_HOUR, 36, "budget", "model=d"))
		if l := out.Statuses[0].CurrentLimit; l.GetRequestsPerUnit() != 9 || l.GetUnit() != pb.RateLimitResponse_RateLimit_HOUR || l.GetUnitMultiplier().GetValue() != 36 {
			t.Errorf("%v", out)
		}
	})
}
