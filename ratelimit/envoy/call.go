package envoy

import (
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

// Bounds of a call.
const (
	maxDescriptors = 64
	maxHits        = 1_000_000_000 // more counts as that many: no limit is above it
)

// want is what a descriptor wants of the rule that it matched.
type want struct {
	at      int // of the descriptor
	request ratelimit.Request
	name    string // that the rule file gives to the rule
	own     bool   // the descriptor itself said how many hits

	window time.Duration // of the quota that the descriptor brings along
}

// count is what is counted together.
type count struct {
	rule, key string
	window    time.Duration
}

func (w want) count() count { return count{w.request.Rule, w.request.Key, w.window} }

// call is what came in, by the rules as they were at that moment.
type call struct {
	takes, looks []want // those with a hits_addend of 0 only look
	statuses     []*pb.RateLimitResponse_DescriptorStatus
}

// read checks a call and finds its rules.
func read(rules *ratelimit.Rules, in *pb.RateLimitRequest) (*call, error) {
	switch n := len(in.Descriptors); {
	case in.Domain == "":
		return nil, status.Error(codes.InvalidArgument, "domain: is empty")
	case n == 0 || n > maxDescriptors:
		return nil, status.Errorf(codes.InvalidArgument, "descriptors: %d are not 1..%d", n, maxDescriptors)
	}
	c := &call{statuses: make([]*pb.RateLimitResponse_DescriptorStatus, len(in.Descriptors))}
	entries := make([][]ratelimit.Entry, len(in.Descriptors))
	for i, d := range in.Descriptors {
		c.statuses[i] = &pb.RateLimitResponse_DescriptorStatus{Code: pb.RateLimitResponse_OK}
		if d.IsNegativeHits {
			return nil, status.Errorf(codes.InvalidArgument, "descriptors[%d].is_negative_hits: hits are not given back", i)
		}
		all := entriesOf(d)
		if d.Limit == nil {
			entries[i] = all
			continue
		}
		q, err := quotaOf(d.Limit)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "descriptors[%d].limit: %v", i, err)
		}
		request, ok, err := rules.Override(in.Domain, 1, all, q)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "descriptors[%d]: %v", i, err)
		}
		if ok {
			c.add(in, want{at: i, request: request, window: q.Window})
		}
	}
	requests, which := rules.Match(in.Domain, 1, entries...)
	for k, i := range which {
		c.add(in, want{at: i, request: requests[k], name: rules.NameOf(requests[k])})
	}
	return c, nil
}

func (c *call) add(in *pb.RateLimitRequest, w want) {
	hits := max(1, uint64(in.HitsAddend))
	if own := in.Descriptors[w.at].HitsAddend; own != nil {
		w.own, hits = true, own.Value
	}
	if hits == 0 {
		c.looks = append(c.looks, w)
		return
	}
	w.request.Cost = int64(min(hits, maxHits))
	c.takes = append(c.takes, w)
}

func entriesOf(d *common.RateLimitDescriptor) []ratelimit.Entry {
	all := make([]ratelimit.Entry, len(d.Entries))
	for i, e := range d.Entries {
		all[i] = ratelimit.Entry{Key: e.GetKey(), Value: e.GetValue()}
	}
	return all
}

func requests(wants []want) []ratelimit.Request {
	all := make([]ratelimit.Request, len(wants))
	for i, w := range wants {
		all[i] = w.request
	}
	return all
}
