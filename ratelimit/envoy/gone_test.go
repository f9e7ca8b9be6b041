package envoy_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/ratelimit/envoy"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

const policies = `
domain: policies
descriptors:
  - {key: open, rate_limit: {unit: day, requests_per_unit: 1000000, on_error: open}}
  - {key: closed, rate_limit: {unit: day, requests_per_unit: 1000000, on_error: closed}}
  - {key: share, rate_limit: {unit: day, requests_per_unit: 32}}
`

// A store behind a network that swallows everything: the policy's answer comes before Envoy stops waiting, which is
// after 20 ms unless its filter says more.
func TestStoreGone(t *testing.T) {
	proxy := storetest.NewProxy(t, storetest.Redis(t))
	var late atomic.Int64
	c := serve(t, limiter(t, openStore(t, proxy.URL()), ratelimit.Options{Timeout: 15 * time.Millisecond, Beat: 200 * time.Millisecond}, policies),
		envoy.Options{Observe: func(outcome string, _ time.Duration) {
			if outcome == "late" {
				late.Add(1)
			}
		}}, 0)
	counted := func() bool { return c.call(t, ask("policies", "open=x")).Statuses[0].CurrentLimit != nil }
	until(t, "the store decides", counted)
	proxy.Set(storetest.Weather{DropUp: true, DropDown: true})
	var took []time.Duration
	unanswered := 0
	for range 200 {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		out, err := c.ShouldRateLimit(ctx, ask("policies", "open=x"))
		cancel()
		took = append(took, time.Since(began))
		if err != nil {
			unanswered++
		} else if out.OverallCode != pb.RateLimitResponse_OK {
			t.Errorf("open: %v", out)
		}
	}
	slices.Sort(took)
	t.Logf("p50 %s, p95 %s, longest %s; %d of 200 unanswered within 20 ms, %d of them reached the service", took[100], took[190], took[199], unanswered, late.Load())
	if took[100] > 10*time.Millisecond || unanswered > 20 { // of a busy machine nothing more is known
		t.Errorf("p50 %s; %d of 200 unanswered within 20 ms", took[100], unanswered)
	}
	out := c.call(t, ask("policies", "closed=x"))
	if st := out.Statuses[0]; out.OverallCode != pb.RateLimitResponse_OVER_LIMIT || st.Code != pb.RateLimitResponse_OVER_LIMIT || st.DurationUntilReset.AsDuration() <= 0 {
		t.Errorf("closed: %v", out)
	}
	if n := c.admitted(t, ask("policies", "share=x")); n != 6 { // one process lives: 32 are its share
		t.Errorf("share: %d of 6", n)
	}
	if st := c.call(t, ask("policies", "open=x")).Statuses[0]; st.CurrentLimit != nil {
		t.Errorf("nobody has counted, and Envoy would tell clients how much is left: %v", st)
	}
	proxy.Set(storetest.Weather{})
	proxy.Cut()
	until(t, "the store decides again", counted)
}

// Callers that wait less long than the Limiter does show it nevertheless that the store is gone: otherwise all calls would go
// unanswered until the store's own connection notices, a second or two later.
func TestImpatientCallers(t *testing.T) {
	proxy := storetest.NewProxy(t, storetest.Redis(t))
	c := serve(t, limiter(t, openStore(t, proxy.URL()), ratelimit.Options{Timeout: 60 * time.Millisecond, Beat: time.Minute}, policies), envoy.Options{}, 0)
	until(t, "the store decides", func() bool { return c.call(t, ask("policies", "open=x")).Statuses[0].CurrentLimit != nil })
	proxy.Set(storetest.Weather{DropUp: true, DropDown: true})
	unanswered := 0
	until(t, "the policy answers a caller that waits 20 ms", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		_, err := c.ShouldRateLimit(ctx, ask("policies", "open=x"))
		if err != nil {
			unanswered++
		}
		return err == nil
	})
	t.Logf("%d calls unanswered", unanswered)
	if unanswered == 0 || unanswered > 30 {
		t.Errorf("%d calls unanswered, not a few", unanswered)
	}
}
