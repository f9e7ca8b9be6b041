package server

import (
	"context"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

// LimitRule is a rule as it is decided by now.
type LimitRule struct {
	Domain    string `json:"domain"`
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	Limit     int64  `json:"limit" doc:"Units a window; at the same time for concurrency."`
	Window    int64  `json:"window_ms,omitempty"`
	Burst     int64  `json:"burst,omitempty"`
	Lease     int64  `json:"lease_ms,omitempty"`
	Leased    int    `json:"leased,omitempty" doc:"Processes lease parts of it, each at most a part in so many."`
	Shadow    bool   `json:"shadow,omitempty"`
	Blocked   bool   `json:"blocked,omitempty"`
	Unlimited bool   `json:"unlimited,omitempty"`
	OnError   string `json:"on_error" doc:"Who decides when the store does not answer: share, open or closed."`
}

type limitsOutput struct {
	Body struct {
		Rules     []LimitRule `json:"rules"`
		Processes int         `json:"processes" doc:"How many share the limits, as the store knew last; 0 if it was never asked."`
	}
}

func (s *Server) listLimits(ctx context.Context, _ *struct{}) (*limitsOutput, error) {
	if s.Limits == nil {
		return nil, s.fail(ctx, errNoLimits)
	}
	out := &limitsOutput{}
	out.Body.Rules, out.Body.Processes = []LimitRule{}, s.Limits.Live()
	for _, r := range s.Limits.Rules().All() {
		out.Body.Rules = append(out.Body.Rules, ruleOf(r))
	}
	return out, nil
}

func ruleOf(r ratelimit.Rule) LimitRule {
	out := LimitRule{
		Domain: r.Domain, Name: r.Name, Algorithm: string(r.Algorithm), Limit: r.Limit, Window: r.Window.Milliseconds(),
		Leased: r.Leased, Shadow: r.Shadow, Blocked: r.Blocked, Unlimited: r.Unlimited, OnError: string(r.OnError),
	}
	if r.Burst != r.Limit {
		out.Burst = r.Burst
	}
	if r.Algorithm == ratelimit.Concurrency {
		out.Lease = r.Lease.Milliseconds()
	}
	return out
}

// RefusedKey is one of those that are refused most.
type RefusedKey struct {
	Domain  string `json:"domain"`
	Rule    string `json:"rule"`
	Key     string `json:"key"`
	Refused int64  `json:"refused" doc:"How often, at most."`
	Error   int64  `json:"error" doc:"By how much that may be too many: what others had before it took their place."`
}

type refusedOutput struct {
	Body struct {
		Since string       `json:"since" format:"date-time" doc:"What is counted began then: ten to twenty minutes ago, or when the process did."`
		Keys  []RefusedKey `json:"keys" doc:"Most refused first."`
	}
}

func (s *Server) listRefused(ctx context.Context, _ *struct{}) (*refusedOutput, error) {
	switch {
	case s.Limits == nil || s.LimitCalls == nil:
		return nil, s.fail(ctx, errNoLimits)
	case !s.mayOperate(ctx):
		return nil, s.fail(ctx, errNotOperator)
	}
	out := &refusedOutput{}
	since, keys := s.LimitCalls.refused.top(100)
	out.Body.Since, out.Body.Keys = since.UTC().Format("2006-01-02T15:04:05Z07:00"), keys
	return out, nil
}
