package envoy

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/ratelimit"
)

// ShouldRateLimit decides a call.
func (s *Service) ShouldRateLimit(ctx context.Context, in *pb.RateLimitRequest) (out *pb.RateLimitResponse, err error) {
	began := time.Now()
	defer func() { s.opts.Observe(outcome(ctx, out, err), time.Since(began)) }()
	c, err := read(s.limits.Rules(), in)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	// Without the caller's deadline, which may be the shorter one: a Limiter counts a call as a store's failure only if
	// the caller is still there when its own time is over.
	within := context.WithoutCancel(ctx)
	if mutant.CallersTime {
		within = ctx
	}
	allowed, err := s.decide(within, c)
	switch {
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, ratelimit.ErrInvalid):
		return nil, status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, ratelimit.ErrSlots):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, ratelimit.ErrClosed):
		return nil, status.Error(codes.Unavailable, err.Error())
	case err != nil:
		return nil, status.Error(codes.Internal, err.Error())
	}
	code := pb.RateLimitResponse_OK
	if !allowed {
		code = pb.RateLimitResponse_OVER_LIMIT
	}
	return &pb.RateLimitResponse{OverallCode: code, Statuses: c.statuses}, nil
}

// outcome is what Observe is told.
func outcome(ctx context.Context, out *pb.RateLimitResponse, err error) string {
	switch {
	case ctx.Err() != nil:
		return "late"
	case status.Code(err) == codes.InvalidArgument:
		return "invalid"
	case err != nil || out == nil: // without both it panics
		return "failed"
	case out.OverallCode == pb.RateLimitResponse_OVER_LIMIT:
		return "over_limit"
	}
	return "ok"
}

func (s *Service) decide(ctx context.Context, c *call) (allowed bool, err error) {
	allowed = true
	if len(c.looks) > 0 {
		d, err := s.look(ctx, c.looks)
		if err != nil {
			return false, err
		}
		c.note(c.looks, d)
		allowed = d.Allowed
	}
	if len(c.takes) > 0 {
		ask := s.limits.Allow
		if !allowed {
			ask = s.limits.Check // for what it says: the call is refused already
		}
		d, err := ask(ctx, requests(c.takes))
		var field *ratelimit.FieldError
		if errors.As(err, &field) && field.Field == "Cost" {
			d, err = s.tooMuch(ctx, c.takes)
		}
		if err != nil {
			return false, err
		}
		c.note(c.takes, d)
		allowed = allowed && d.Allowed
	}
	if !allowed {
		s.charge(ctx, c.takes)
	}
	return allowed, nil
}

// look asks what rules would say of one more unit, each rule and key once, and takes nothing.
func (s *Service) look(ctx context.Context, wants []want) (ratelimit.Decision, error) {
	var once []ratelimit.Request
	at := map[count]int{}
	for _, w := range wants {
		if _, had := at[w.count()]; !had {
			at[w.count()] = len(once)
			one := w.request
			one.Cost = 1
			once = append(once, one)
		}
	}
	d, err := s.limits.Check(ctx, once)
	if err != nil {
		return d, err
	}
	statuses := make([]ratelimit.Status, len(wants))
	for i, w := range wants {
		statuses[i] = d.Statuses[at[w.count()]]
	}
	d.Statuses = statuses
	return d, nil
}

// tooMuch is the decision on a call that wants more of a rule than it ever admits at once.
func (s *Service) tooMuch(ctx context.Context, wants []want) (ratelimit.Decision, error) {
	d, err := s.look(ctx, wants)
	if err != nil {
		return d, err
	}
	sums := map[count]int64{}
	for _, w := range wants {
		sums[w.count()] += w.request.Cost
	}
	d.Allowed = true
	for i, w := range wants {
		st := &d.Statuses[i]
		most := cmp.Or(st.Quota.Burst, st.Quota.Limit)
		st.Refused = st.Refused || st.Remaining != ratelimit.Unlimited && sums[w.count()] > most
		d.Allowed = d.Allowed && (!st.Refused || st.Shadow)
	}
	return d, nil
}

// charge counts the hits that descriptors of a refused call bring themselves. One unit is reserved, if there is one left, and comes to
// what was said: so a budget is used up, and gets into debt, although the call was refused.
func (s *Service) charge(ctx context.Context, wants []want) {
	for _, w := range wants {
		if !w.own || w.request.Cost == 1 || mutant.ReportsLost {
			continue
		}
		one := w.request
		one.Cost = 1
		res, err := s.limits.Reserve(ctx, rand.Text(), []ratelimit.Request{one})
		if err == nil && res.Allowed {
			err = res.Commit(ctx, w.request.Cost)
		}
		if err != nil {
			s.opts.Logger.Warn("limits: hits that happened could not be counted", "rule", w.request.Rule, "error", err)
		}
	}
}
