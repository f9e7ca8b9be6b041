package envoy_test

import (
	"context"
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/ratelimit/envoy"
)

// Whatever comes in: one status a descriptor, over limit as a whole exactly when one is, and a refused call without hits
// of its descriptors' own leaves everything as it was.
func TestAnyCall(t *testing.T) {
	s := envoy.New(limiter(t, openStore(t, "mem:"), patient, append(examples, budget)...), envoy.Options{})
	domains := []string{"values", "nested", "particular", "length", "unlimited", "shadow", "replaces", "wildcard", "budget", "nowhere"}
	texts := []string{"table=orders", "kind=offer address=a", "address=a", "ip=192.0.2.9", "ip=192.0.2.1", "short=a", "staff=a", "guest=a", "service=auth user=ada",
		"service=auth user=bob", "kind=read user=ada", "path=/search user=ada", "path=/v1/a", "model=a", "user=a", "bucket=a", "none=a", "watched=a", ""}
	call := func(t *rapid.T, in *pb.RateLimitRequest) *pb.RateLimitResponse {
		out, err := s.ShouldRateLimit(context.Background(), in)
		if err != nil {
			t.Fatalf("%v: %v", in, err)
		}
		return out
	}
	rapid.Check(t, func(t *rapid.T) {
		in := ask(rapid.SampledFrom(domains).Draw(t, "domain"), rapid.SliceOfN(rapid.SampledFrom(texts), 1, 5).Draw(t, "descriptors")...)
		in.HitsAddend = rapid.SampledFrom([]uint32{0, 1, 2, 7, 60, 1 << 31}).Draw(t, "hits")
		own := false
		look := ask(in.Domain)
		for _, d := range in.Descriptors {
			if len(d.Entries) > 0 && rapid.IntRange(0, 7).Draw(t, "override") == 0 {
				d.Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: rapid.Uint32Range(0, 9).Draw(t, "limit"), Unit: typev3.RateLimitUnit_YEAR}
			}
			look.Descriptors = append(look.Descriptors, &common.RateLimitDescriptor{Entries: d.Entries, Limit: d.Limit, HitsAddend: wrapperspb.UInt64(0)})
			if rapid.IntRange(0, 3).Draw(t, "own") == 0 {
				own, d.HitsAddend = true, wrapperspb.UInt64(rapid.SampledFrom([]uint64{0, 1, 5, 200, 1 << 60}).Draw(t, "own hits"))
			}
		}
		before := call(t, look)
		out := call(t, in)
		if len(out.Statuses) != len(in.Descriptors) {
			t.Fatalf("%v", out)
		}
		code := pb.RateLimitResponse_OK
		for _, st := range out.Statuses {
			if st.Code == pb.RateLimitResponse_OVER_LIMIT {
				code = st.Code
			}
		}
		if out.OverallCode != code {
			t.Fatalf("%v as a whole, and %v", out.OverallCode, out.Statuses)
		}
		if own || code == pb.RateLimitResponse_OK {
			return
		}
		for i, st := range call(t, look).Statuses {
			if st.LimitRemaining < before.Statuses[i].LimitRemaining {
				t.Fatalf("a refused call has taken of descriptor %d: %v, before it %v", i, st, before.Statuses[i])
			}
		}
	})
}
