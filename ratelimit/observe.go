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
