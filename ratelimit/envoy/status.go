package envoy

import (
	"errors"
	"math"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

const day = 24 * time.Hour

// note writes down what the rules said.
func (c *call) note(wants []want, d ratelimit.Decision) {
	for i, w := range wants {
		fill(c.statuses[w.at], d.Statuses[i], w.name)
	}
}

// fill makes Envoy's status of ours. What nobody has counted has no current limit, or Envoy would tell clients
// that nothing is left.
func fill(out *pb.RateLimitResponse_DescriptorStatus, st ratelimit.Status, name string) {
	over := st.Refused && !st.Shadow
	if over {
		out.Code = pb.RateLimitResponse_OVER_LIMIT
	}
	switch {
	case st.Remaining == ratelimit.Unlimited:
		out.LimitRemaining = math.MaxUint32
		return
	case st.Remaining < 0 && !over:
		return
	}
	unit, times := unitOf(st.Quota.Window)
	out.CurrentLimit = &pb.RateLimitResponse_RateLimit{Name: name, RequestsPerUnit: uint32(st.Quota.Limit), Unit: unit} // up to a billion
	if times > 1 {
		out.CurrentLimit.UnitMultiplier = wrapperspb.UInt32(times)
	}
	out.LimitRemaining = uint32(max(st.Remaining, 0)) // up to a burst, a billion
	reset := st.Reset
	if over {
		reset = max(reset, st.Wait)
	}
	if reset > 0 {
		out.DurationUntilReset = durationpb.New(reset)
	}
}

// unitOf says a window in Envoy's words: so many of a unit. What is not in whole seconds has no word.
func unitOf(window time.Duration) (unit pb.RateLimitResponse_RateLimit_Unit, times uint32) {
	switch window {
	case 7 * day:
		return pb.RateLimitResponse_RateLimit_WEEK, 1
	case 30 * day:
		return pb.RateLimitResponse_RateLimit_MONTH, 1
	case 365 * day:
		return pb.RateLimitResponse_RateLimit_YEAR, 1
	}
	for _, u := range []struct {
		length time.Duration
		unit   pb.RateLimitResponse_RateLimit_Unit
	}{
		{day, pb.RateLimitResponse_RateLimit_DAY}, {time.Hour, pb.RateLimitResponse_RateLimit_HOUR},
		{time.Minute, pb.RateLimitResponse_RateLimit_MINUTE}, {time.Second, pb.RateLimitResponse_RateLimit_SECOND},
	} {
		if window > 0 && window%u.length == 0 {
			return u.unit, uint32(window / u.length) // 366 days have 31,622,400 seconds
		}
	}
	return pb.RateLimitResponse_RateLimit_UNKNOWN, 1
}

var lengths = map[typev3.RateLimitUnit]time.Duration{
	typev3.RateLimitUnit_SECOND: time.Second, typev3.RateLimitUnit_MINUTE: time.Minute, typev3.RateLimitUnit_HOUR: time.Hour,
	typev3.RateLimitUnit_DAY: day, typev3.RateLimitUnit_MONTH: 30 * day, typev3.RateLimitUnit_YEAR: 365 * day,
}

// quotaOf is the quota that a descriptor brings along.
func quotaOf(o *common.RateLimitDescriptor_RateLimitOverride) (q ratelimit.Quota, err error) {
	length, times := lengths[o.Unit], int64(1)
	if o.UnitMultiplier != nil {
		times = int64(o.UnitMultiplier.Value)
	}
	switch {
	case length == 0:
		return q, errors.New("unit: is not second, minute, hour, day, month or year")
	case times < 1 || times > int64(366*day/length):
		return q, errors.New("unit_multiplier: is below 1, or the window is longer than 366 days")
	}
	return ratelimit.Quota{Limit: int64(o.RequestsPerUnit), Window: time.Duration(times) * length}, nil
}
