package ratelimit_test

import (
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

// A limit that a call brings along counts for itself, not with the rule of the same entries.
func TestLimitOfACallCountsForItself(t *testing.T) {
	rules, err := ratelimit.ParseRules(ratelimit.File{Name: "f", Text: []byte("domain: d\ndescriptors:\n  - key: a\n    rate_limit: {unit: day, requests_per_unit: 5}\n")})
	if err != nil {
		t.Fatal(err)
	}
	l := limiter(t, newWorld(t).store, patient)
	if err := l.Reload(rules); err != nil {
		t.Fatal(err)
	}
	d := []ratelimit.Entry{{Key: "a", Value: "x"}}
	for _, window := range []time.Duration{24 * time.Hour, 48 * time.Hour} {
		r, ok, err := rules.Override("d", 3, d, ratelimit.Quota{Limit: 4, Window: window})
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if got := allow(t, l, r); !got.Allowed || got.Statuses[0].Remaining != 1 {
			t.Errorf("%s: %+v", window, got)
		}
	}
	reqs, _ := rules.Match("d", 1, d)
	if got := allow(t, l, reqs...); !got.Allowed || got.Statuses[0].Remaining != 4 {
		t.Errorf("the rule's own: %+v", got)
	}
}
