package envoy_test

import (
	"testing"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/holdfast-dev/holdfast/ratelimit/envoy"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// The situations of the nine examples that envoyproxy/ratelimit's README gives of its configuration, in
// rules of our own.
var examples = []string{`
domain: values           # 1: two values of one key
descriptors:
  - {key: table, value: orders, rate_limit: {unit: day, requests_per_unit: 3}}
  - {key: table, value: logs, rate_limit: {unit: day, requests_per_unit: 4}}
`, `
domain: nested           # 2: one value of a kind, for each address; and each address at all
descriptors:
  - key: kind
    value: offer
    descriptors:
      - {key: address, rate_limit: {unit: day, requests_per_unit: 2}}
  - {key: address, rate_limit: {unit: day, requests_per_unit: 5}}
`, `
domain: particular       # 3: a value before any value; nothing at all for one
descriptors:
  - {key: ip, rate_limit: {unit: day, requests_per_unit: 3}}
  - {key: ip, value: 192.0.2.9, rate_limit: {unit: day, requests_per_unit: 0}}
  - {key: ip, value: 192.0.2.7, rate_limit: {unit: day, requests_per_unit: 5}}
`, `
domain: length           # 4: a rule is for descriptors of its length
descriptors:
  - {key: short, value: a, rate_limit: {unit: day, requests_per_unit: 1}}
  - key: long
    value: a
    descriptors:
      - {key: more, rate_limit: {unit: day, requests_per_unit: 2}}
`, `
domain: unlimited        # 5
descriptors:
  - {key: staff, rate_limit: {unlimited: true}}
  - {key: guest, rate_limit: {unit: day, requests_per_unit: 2}}
`, `
domain: shadow           # 6: it counts, and never refuses
descriptors:
  - key: service
    descriptors:
      - {key: user, value: ada, shadow_mode: true, rate_limit: {unit: day, requests_per_unit: 1}}
      - {key: user, value: bob, rate_limit: {unit: day, requests_per_unit: 2}}
`, `
domain: replaces         # 7: where both match, one instead of the other
descriptors:
  - key: kind
    value: read
    descriptors:
      - {key: user, value: ada, rate_limit: {name: reads, unit: day, requests_per_unit: 2}}
  - key: path
    value: /search
    descriptors:
      - {key: user, value: ada, rate_limit: {replaces: [{name: reads}], unit: day, requests_per_unit: 4}}
`, `
domain: metric           # 8: it says more in metrics, and decides the same
descriptors:
  - {key: job, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 2}}
  - {key: job, value: night, value_to_metric: true, rate_limit: {unit: day, requests_per_unit: 4}}
`, `
domain: wildcard         # 9: values that begin alike, each with its own count
descriptors:
  - {key: path, value: /v1/*, rate_limit: {unit: day, requests_per_unit: 2}}
`}

func TestDocumentedExamples(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		c := serve(t, limiter(t, s, patient, examples...), envoy.Options{}, 0)
		for _, e := range []struct {
			domain      string
			descriptors []string
			want        int // of six calls
		}{
			{"values", []string{"table=orders"}, 3}, {"values", []string{"table=logs"}, 4}, {"values", []string{"table=other"}, 6}, {"values", []string{"TABLE=orders"}, 6},
			{"nested", []string{"kind=offer address=a"}, 2}, {"nested", []string{"kind=offer address=b"}, 2}, {"nested", []string{"kind=news address=a"}, 6}, {"nested", []string{"kind=offer"}, 6},
			{"nested", []string{"address=a"}, 5}, {"nested", []string{"kind=offer address=c", "address=c"}, 2}, {"nested", []string{"address=c"}, 3}, // what was refused did not count
			{"particular", []string{"ip=192.0.2.1"}, 3}, {"particular", []string{"ip=192.0.2.2"}, 3}, {"particular", []string{"ip=192.0.2.9"}, 0}, {"particular", []string{"ip=192.0.2.7"}, 5},
			{"length", []string{"short=a"}, 1}, {"length", []string{"short=a more=b"}, 6}, {"length", []string{"long=a more=b"}, 2}, {"length", []string{"long=a"}, 6},
			{"unlimited", []string{"staff=ada"}, 6}, {"unlimited", []string{"guest=bob"}, 2}, {"unlimited", []string{"staff=ada", "guest=eve"}, 2}, {"unlimited", []string{"other=x"}, 6},
			{"shadow", []string{"service=auth user=ada"}, 6}, {"shadow", []string{"service=auth user=bob"}, 2}, {"shadow", []string{"service=auth user=eve"}, 6},
			{"replaces", []string{"kind=read user=ada", "path=/search user=ada"}, 4}, {"replaces", []string{"kind=read user=ada"}, 2}, {"replaces", []string{"path=/search user=ada"}, 0},
			{"metric", []string{"job=day"}, 2}, {"metric", []string{"job=noon"}, 2}, {"metric", []string{"job=night"}, 4},
			{"wildcard", []string{"path=/v1/a"}, 2}, {"wildcard", []string{"path=/v1/b"}, 2}, {"wildcard", []string{"path=/v2/a"}, 6},
			{"nowhere", []string{"table=orders"}, 6},
		} {
			if got := c.admitted(t, ask(e.domain, e.descriptors...)); got != e.want {
				t.Errorf("%s %v: %d of 6 are OK, not %d", e.domain, e.descriptors, got, e.want)
			}
		}
	})
}

// Each descriptor has its own code; a shadow's is OK. One that refuses makes the call refused, and none counts.
func TestSeveralDescriptors(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		c := serve(t, limiter(t, s, patient, examples...), envoy.Options{}, 0)
		in := ask("nested", "kind=offer address=a", "address=a", "nothing=x")
		c.admitted(t, in)
		out := c.call(t, in)
		if out.OverallCode != pb.RateLimitResponse_OVER_LIMIT {
			t.Fatal(out)
		}
		for i, want := range []pb.RateLimitResponse_Code{pb.RateLimitResponse_OVER_LIMIT, pb.RateLimitResponse_OK, pb.RateLimitResponse_OK} {
			if out.Statuses[i].Code != want {
				t.Errorf("descriptor %d: %v", i, out.Statuses[i])
			}
		}
		if n := out.Statuses[1].LimitRemaining; n != 3 {
			t.Errorf("the other limit has counted what was refused: %d left of 5, of which 2 were taken", n)
		}
		if n := c.left(t, "nested", "address=a"); n != 3 {
			t.Errorf("%d left", n)
		}
	})
}
