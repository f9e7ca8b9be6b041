package envoy_test

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/ratelimit/envoy"
)

const windows = `
domain: windows
descriptors:
  - {key: second, rate_limit: {unit: second, requests_per_unit: 1000, name: quick}}
  - {key: minute, rate_limit: {unit: minute, requests_per_unit: 5}}
  - {key: hour, rate_limit: {unit: hour, requests_per_unit: 5}}
  - {key: day, rate_limit: {unit: day, requests_per_unit: 5}}
  - {key: week, rate_limit: {unit: week, requests_per_unit: 5}}
  - {key: month, rate_limit: {unit: month, requests_per_unit: 5}}
  - {key: year, rate_limit: {unit: year, requests_per_unit: 5}}
  - {key: ninety, rate_limit: {window: 90s, requests_per_unit: 5}}
  - {key: fortnight, rate_limit: {window: 336h, requests_per_unit: 5}}
  - {key: bucket, rate_limit: {algorithm: token-bucket, window: 10h, requests_per_unit: 10, burst: 2}}
  - {key: short, rate_limit: {algorithm: token-bucket, window: 100ms, requests_per_unit: 100, burst: 5}}
  - {key: slots, rate_limit: {algorithm: concurrency, requests_per_unit: 3}}
`

func TestStatuses(t *testing.T) {
	c := serve(t, limiter(t, openStore(t, "mem:"), patient, windows), envoy.Options{}, 0)
	for _, e := range []struct {
		key   string
		unit  pb.RateLimitResponse_RateLimit_Unit
		times uint32 // 0: not said
		limit uint32
		left  uint32
		reset time.Duration // at most
		name  string
	}{
		{"second", pb.RateLimitResponse_RateLimit_SECOND, 0, 1000, 999, time.Second, "quick"},
		{"minute", pb.RateLimitResponse_RateLimit_MINUTE, 0, 5, 4, time.Minute, ""},
		{"hour", pb.RateLimitResponse_RateLimit_HOUR, 0, 5, 4, time.Hour, ""},
		{"day", pb.RateLimitResponse_RateLimit_DAY, 0, 5, 4, 24 * time.Hour, ""},
		{"week", pb.RateLimitResponse_RateLimit_WEEK, 0, 5, 4, 7 * 24 * time.Hour, ""},
		{"month", pb.RateLimitResponse_RateLimit_MONTH, 0, 5, 4, 30 * 24 * time.Hour, ""},
		{"year", pb.RateLimitResponse_RateLimit_YEAR, 0, 5, 4, 365 * 24 * time.Hour, ""},
		{"ninety", pb.RateLimitResponse_RateLimit_SECOND, 90, 5, 4, 90 * time.Second, ""},
		{"fortnight", pb.RateLimitResponse_RateLimit_DAY, 14, 5, 4, 14 * 24 * time.Hour, ""},
		{"bucket", pb.RateLimitResponse_RateLimit_HOUR, 10, 10, 1, time.Hour, ""},
		{"short", pb.RateLimitResponse_RateLimit_UNKNOWN, 0, 100, 4, time.Millisecond, ""},
		{"slots", pb.RateLimitResponse_RateLimit_UNKNOWN, 0, 3, 2, 30 * time.Second, ""},
	} {
		st := c.call(t, ask("windows", e.key+"=x")).Statuses[0]
		l, reset := st.CurrentLimit, st.DurationUntilReset.AsDuration()
		if st.Code != pb.RateLimitResponse_OK || l.GetUnit() != e.unit || l.GetUnitMultiplier().GetValue() != e.times || l.GetRequestsPerUnit() != e.limit ||
			l.GetName() != e.name || st.LimitRemaining != e.left || reset <= 0 || reset > e.reset {
			t.Errorf("%s: %v", e.key, st)
		}
	}
	in := ask("windows", "bucket=y")
	c.admitted(t, in)
	st := c.call(t, in).Statuses[0]
	if reset := st.DurationUntilReset.AsDuration(); st.Code != pb.RateLimitResponse_OVER_LIMIT || st.LimitRemaining != 0 || reset < 59*time.Minute || reset > time.Hour {
		t.Errorf("who is refused is told when to come back: %v", st)
	}
}

func TestStatusesWithoutLimit(t *testing.T) {
	c := serve(t, limiter(t, openStore(t, "mem:"), patient, examples...), envoy.Options{}, 0)
	for _, e := range []struct {
		domain, descriptor string
		left               uint32
	}{{"unlimited", "staff=x", math.MaxUint32}, {"unlimited", "nobody=x", 0}, {"nowhere", "staff=x", 0}, {"nested", "", 0}} {
		out := c.call(t, ask(e.domain, e.descriptor))
		if st := out.Statuses[0]; out.OverallCode != pb.RateLimitResponse_OK || st.Code != pb.RateLimitResponse_OK || st.CurrentLimit != nil || st.LimitRemaining != e.left {
			t.Errorf("%+v: %v", e, out)
		}
		if len(out.ResponseHeadersToAdd)+len(out.RequestHeadersToAdd)+len(out.RawBody) > 0 {
			t.Errorf("more than was asked for: %v", out)
		}
	}
	in := ask("shadow", "service=auth user=ada")
	c.admitted(t, in)
	if st := c.call(t, in).Statuses[0]; st.Code != pb.RateLimitResponse_OK || st.LimitRemaining != 0 || st.CurrentLimit.GetRequestsPerUnit() != 1 {
		t.Errorf("a shadow that would refuse: %v", st)
	}
}

func TestBadInput(t *testing.T) {
	c := serve(t, limiter(t, openStore(t, "mem:"), patient, budget), envoy.Options{}, 0)
	many := make([]string, 65)
	for i := range many {
		many[i] = "model=a"
	}
	limit := func(o *common.RateLimitDescriptor_RateLimitOverride, descriptor string) *pb.RateLimitRequest {
		in := ask("budget", descriptor)
		in.Descriptors[0].Limit = o
		return in
	}
	negative := hits(ask("budget", "user=a", "model=a"), 1, 5)
	negative.Descriptors[1].IsNegativeHits = true
	day := typev3.RateLimitUnit_DAY
	for _, e := range []struct {
		in   *pb.RateLimitRequest
		code codes.Code
		says string
	}{
		{ask("", "model=a"), codes.InvalidArgument, "domain"}, {ask("budget"), codes.InvalidArgument, "descriptors"}, {ask("budget", many...), codes.InvalidArgument, "descriptors"},
		{negative, codes.InvalidArgument, "descriptors[1].is_negative_hits"},
		{limit(&common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 5}, "model=a"), codes.InvalidArgument, "unit"},
		{limit(&common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 5, Unit: 77}, "model=a"), codes.InvalidArgument, "unit"},
		{limit(&common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 5, Unit: day, UnitMultiplier: wrapperspb.UInt32(0)}, "model=a"), codes.InvalidArgument, "unit_multiplier"},
		{limit(&common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 5, Unit: day, UnitMultiplier: wrapperspb.UInt32(367)}, "model=a"), codes.InvalidArgument, "unit_multiplier"},
		{limit(&common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 4_000_000_000, Unit: day}, "model=a"), codes.InvalidArgument, "Limit"},
		{limit(&common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 5, Unit: day}, ""), codes.InvalidArgument, "entries"},
		{limit(&common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 5, Unit: day}, strings.Repeat("k=v ", 17)), codes.InvalidArgument, "entries"},
		{limit(&common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 5, Unit: day}, strings.Repeat("k", 300)+"=v"), codes.InvalidArgument, "Name"},
		{limit(&common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 5, Unit: day}, "a\x01b=v"), codes.InvalidArgument, "Name"},
		{ask("budget", "model="+strings.Repeat("x", 70_000)), codes.ResourceExhausted, "larger than max"},
		{ask("budget", "model="+strings.Repeat("x", 60_000)), codes.OK, ""}, {ask(strings.Repeat("d", 1000), "model=a"), codes.OK, ""},
		{ask("budget", strings.Repeat("k=v ", 40)), codes.OK, ""}, {ask("budget", "model=\x00\x7f\u2028:{}%/"), codes.OK, ""},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_, err := c.ShouldRateLimit(ctx, e.in)
		cancel()
		if status.Code(err) != e.code || err != nil && !strings.Contains(err.Error(), e.says) {
			t.Errorf("%.100v: %v, not %v %q", e.in, err, e.code, e.says)
		}
	}
	if n := c.left(t, "budget", "model=a"); n != 100 {
		t.Errorf("bad calls have taken: %d left of 100", n)
	}
}

// New rules hold for the next call, and what was counted stays.
func TestReload(t *testing.T) {
	l := limiter(t, openStore(t, "mem:"), patient, budget)
	c := serve(t, l, envoy.Options{}, 0)
	in := ask("budget", "user=ada")
	in.HitsAddend = 40
	c.call(t, in)
	rules, err := ratelimit.ParseRules(ratelimit.File{Name: "f", Text: []byte(strings.ReplaceAll(budget, "50", "60"))})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Reload(rules); err != nil {
		t.Fatal(err)
	}
	if n := c.left(t, "budget", "user=ada"); n != 20 {
		t.Errorf("%d left of 60, of which 40 were taken", n)
	}
}
