package ratelimit

import (
	"context"
	"time"
)

// observed is decide, and Observe hears of it.
func (l *Limiter) observed(ctx context.Context, reqs []Request, mode int64, id string) (Decision, error) {
	if l.opts.Observe == nil {
		return l.decide(ctx, reqs, mode, id)
	}
	began := time.Now()
	d, err := l.decide(ctx, reqs, mode, id)
	if err == nil {
		l.opts.Observe(d, time.Since(began))
	}
	return d, err
}

// All are the rules, by domain and name. Overrides of rule files, which go by descriptors, are left out.
func (s *Rules) All() []Rule {
	all := make([]Rule, 0, len(s.named))
	for _, n := range s.names() {
		all = append(all, *s.named[n].Rule)
	}
	return all
}
