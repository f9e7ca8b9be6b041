package caller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/store"
)

// want is some units of one rule and key.
type want struct {
	rule, key string
	units     int64
}

// Wants reads "rule=key" each.
func Wants(of []string) (all []want, err error) {
	for _, text := range of {
		rule, key, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not rule=key", text)
		}
		all = append(all, want{rule, key, 1})
	}
	return all, nil
}

const fromStore = string(ratelimit.FromStore)

// answer is a decision.
type answer struct {
	allowed bool
	source  string // fromStore, or who decided instead
	wait    time.Duration
	left    int64 // of the first rule
	release func(ctx context.Context) error
	settle  func(ctx context.Context, actual int64) error // nil: nothing was reserved
}

// limits is where callers ask: a library, or an API.
type limits interface {
	take(ctx context.Context, what ...want) (answer, error)
	reserve(ctx context.Context, id string, what want) (answer, error)
	look(ctx context.Context, what want) (answer, error)
	// live is how many processes this one knows of; 0: none has told.
	live() int
	close(ctx context.Context) error
}

func openLimits(ctx context.Context, o Options) (limits, error) {
	if o.API != "" {
		return openAPI(o), nil
	}
	return openLibrary(ctx, o)
}

// library asks through package ratelimit.
type library struct {
	store   *store.Store
	limiter *ratelimit.Limiter
}

func openLibrary(ctx context.Context, o Options) (limits, error) {
	rules, err := ratelimit.LoadRules(o.Rules)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, o.Store, store.Options{})
	if err != nil {
		return nil, err
	}
	l, err := ratelimit.New(s, rules, ratelimit.Options{Processes: o.Processes, Timeout: o.Timeout, Beat: beat})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &library{s, l}, nil
}

func (l *library) close(ctx context.Context) error {
	return errors.Join(l.limiter.Close(ctx), l.store.Close())
}

func (l *library) live() int { return l.limiter.Live() }

func (l *library) requests(what ...want) (all []ratelimit.Request) {
	for _, w := range what {
		found, _ := l.limiter.Rules().Match(domain, w.units, []ratelimit.Entry{{Key: w.rule, Value: w.key}})
		all = append(all, found...)
	}
	return all
}

func (l *library) take(ctx context.Context, what ...want) (answer, error) {
	d, err := l.limiter.Allow(ctx, l.requests(what...))
	return answered(d, err)
}

func (l *library) look(ctx context.Context, what want) (answer, error) {
	d, err := l.limiter.Check(ctx, l.requests(what))
	return answered(d, err)
}

func (l *library) reserve(ctx context.Context, id string, what want) (answer, error) {
	r, err := l.limiter.Reserve(ctx, id, l.requests(what))
	if err != nil {
		return answer{}, err
	}
	a, err := answered(r.Decision, nil)
	if a.allowed {
		a.settle = func(ctx context.Context, actual int64) error { return r.Commit(ctx, actual) }
	}
	return a, err
}

func answered(d ratelimit.Decision, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return answer{allowed: d.Allowed, source: string(d.Source), wait: d.Wait, left: d.Statuses[0].Remaining, release: d.Release}, nil
}
