// Package envoy answers Envoy's rate limit service over gRPC (envoy.service.ratelimit.v3) from a
// ratelimit.Limiter, so that an unmodified Envoy asks Holdfast where it asked envoyproxy/ratelimit.
//
// Promised: what ratelimit promises. All descriptors of a call are decided in one round trip, all or none:
// a call that one limit refuses is counted by none, except what a descriptor's own hits_addend says, which is how
// Envoy reports what a response came to, and which is counted whatever the verdict
// (docs/decisions/0023-a-refused-call-of-envoy-counts-nowhere.md). A domain or a descriptor without a rule is OK. When
// the store is gone each rule's Policy answers, within Options.Timeout of the Limiter: that has to be below Envoy's own
// timeout (20 ms unless its filter says more), or Envoy goes by its failure_mode_deny instead.
//
// Not promised: that Envoy waits for a leaky bucket's turn, or gives the slots of a concurrency rule back: it does neither,
// a slot comes back when its lease is over. Headers: none are added; Envoy writes its own (enable_x_ratelimit_headers).
//
// Retries: as with Allow, a call that is repeated may count twice. Cost: one round trip; one more if some descriptors have
// a hits_addend of 0 and others not, and two for each descriptor that is counted although the call was refused.
//
// Errors are gRPC's: INVALID_ARGUMENT with the field that is wrong, RESOURCE_EXHAUSTED for a message above 64 KiB,
// UNAUTHENTICATED, DEADLINE_EXCEEDED, UNAVAILABLE when the service ends, INTERNAL. To Envoy all are the same:
// failure_mode_deny.
package envoy

import (
	"log/slog"
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

// Options of New. The zero value works.
type Options struct {
	// Authorize says whether a call's authorization field lets it in; without it everybody is in. Health
	// is told to everybody.
	Authorize func(field string) bool
	// Observe is told of each call: what came of it ("ok", "over_limit", "late" when the caller's deadline had passed,
	// "invalid", or "failed"), and how long it took.
	Observe func(outcome string, took time.Duration)
	// Logger gets what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
}

// Service answers calls; Serve has it on a listener. It has no state of its own.
type Service struct {
	pb.UnimplementedRateLimitServiceServer
	limits *ratelimit.Limiter
	opts   Options
}

// New makes a service on a Limiter, which stays the caller's.
func New(l *ratelimit.Limiter, o Options) *Service {
	if o.Observe == nil {
		o.Observe = func(string, time.Duration) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{limits: l, opts: o}
}
