package ratelimit_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/store"
)

// field is the field that an error names.
func field(err error) string {
	var f *ratelimit.FieldError
	if errors.Is(err, ratelimit.ErrInvalid) && errors.As(err, &f) {
		return f.Field
	}
	return ""
}

func TestBadRules(t *testing.T) {
	q := ratelimit.Quota{Limit: 5, Window: time.Minute}
	long := strings.Repeat("x", 600)
	for _, c := range []struct {
		field string
		r     ratelimit.Rule
	}{
		{"Name", ratelimit.Rule{Quota: q}}, {"Name", ratelimit.Rule{Name: long, Quota: q}}, {"Name", ratelimit.Rule{Name: "a\nb", Quota: q}},
		{"Name", ratelimit.Rule{Name: "\xff", Quota: q}}, {"Domain", ratelimit.Rule{Name: "a", Domain: long, Quota: q}},
		{"Tag", ratelimit.Rule{Name: "a", Tag: long, Quota: q}}, {"OnError", ratelimit.Rule{Name: "a", OnError: "maybe", Quota: q}},
		{"Algorithm", ratelimit.Rule{Name: "a", Algorithm: "best", Quota: q}},
		{"Unlimited", ratelimit.Rule{Name: "a", Blocked: true, Unlimited: true}}, {"Limit", ratelimit.Rule{Name: "a", Blocked: true, Quota: q}},
		{"Limit", ratelimit.Rule{Name: "a", Quota: ratelimit.Quota{Window: time.Minute}}},
		{"Limit", ratelimit.Rule{Name: "a", Quota: ratelimit.Quota{Limit: -1, Window: time.Minute}}},
		{"Limit", ratelimit.Rule{Name: "a", Quota: ratelimit.Quota{Limit: 1 << 40, Window: time.Minute}}},
		{"Limit", ratelimit.Rule{Name: "a", Quota: ratelimit.Quota{Limit: 700_000, Window: time.Second}}}, // 1.43 µs
		{"Limit", ratelimit.Rule{Name: "a", Algorithm: ratelimit.SlidingLog, Quota: ratelimit.Quota{Limit: 10_001, Window: time.Minute}}},
		{"Limit", ratelimit.Rule{Name: "a", Algorithm: ratelimit.SlidingCounter, Quota: ratelimit.Quota{Limit: 1_000_000, Window: 100 * 24 * time.Hour}}},
		{"Limit", ratelimit.Rule{Name: "a", Algorithm: ratelimit.Concurrency, Quota: ratelimit.Quota{Limit: 10_001}}},
		{"Window", ratelimit.Rule{Name: "a", Quota: ratelimit.Quota{Limit: 5}}},
		{"Window", ratelimit.Rule{Name: "a", Quota: ratelimit.Quota{Limit: 5, Window: -time.Second}}},
		{"Window", ratelimit.Rule{Name: "a", Quota: ratelimit.Quota{Limit: 5, Window: 1500 * time.Microsecond}}},
		{"Window", ratelimit.Rule{Name: "a", Quota: ratelimit.Quota{Limit: 5, Window: 367 * 24 * time.Hour}}},
		{"Window", ratelimit.Rule{Name: "a", Algorithm: ratelimit.Concurrency, Quota: q}},
		{"Burst", ratelimit.Rule{Name: "a", Quota: ratelimit.Quota{Limit: 5, Window: time.Minute, Burst: -1}}},
		{"Burst", ratelimit.Rule{Name: "a", Quota: ratelimit.Quota{Limit: 1, Window: 300 * 24 * time.Hour, Burst: 2}}},
		{"Burst", ratelimit.Rule{Name: "a", Algorithm: ratelimit.FixedWindow, Quota: ratelimit.Quota{Limit: 5, Window: time.Minute, Burst: 5}}},
		{"Lease", ratelimit.Rule{Name: "a", Quota: ratelimit.Quota{Limit: 5, Window: time.Minute, Lease: time.Minute}}},
		{"Lease", ratelimit.Rule{Name: "a", Algorithm: ratelimit.Concurrency, Quota: ratelimit.Quota{Limit: 5, Lease: 2 * time.Hour}}},
		{"Limit", ratelimit.Rule{Name: "a", Quota: q, Overrides: map[string]ratelimit.Quota{"k": {Window: time.Minute}}}},
		{"Overrides", ratelimit.Rule{Name: "a", Quota: q, Overrides: map[string]ratelimit.Quota{long: q}}},
	} {
		if _, err := ratelimit.NewRules(c.r); field(err) != c.field {
			t.Errorf("%+v: %v does not name %s", c.r, err, c.field)
		}
	}
	if _, err := ratelimit.NewRules(ratelimit.Rule{Name: "a", Quota: q}, ratelimit.Rule{Name: "a", Quota: q}); field(err) != "Name" {
		t.Errorf("twice: %v", err)
	}
}

func TestSlots(t *testing.T) {
	q := ratelimit.Quota{Limit: 5, Window: time.Minute}
	a, b := ratelimit.Rule{Name: "a", Quota: q}, ratelimit.Rule{Name: "b", Tag: "elsewhere", Quota: q}
	if _, err := ratelimit.NewRules(a, b); !errors.Is(err, ratelimit.ErrSlots) {
		t.Errorf("two tags in one domain: %v", err)
	}
	b.Independent = true
	if _, err := ratelimit.NewRules(a, b); err != nil {
		t.Errorf("one of them is independent: %v", err)
	}
	w := newWorld(t)
	l := limiter(t, w.store, patient, a, ratelimit.Rule{Name: "b", Domain: "other", Quota: q})
	if _, err := l.Allow(context.Background(), []ratelimit.Request{{Rule: "a", Cost: 1}, {Rule: "b", Domain: "other", Cost: 1}}); !errors.Is(err, ratelimit.ErrSlots) {
		t.Errorf("a call of two domains: %v", err)
	}
	if n := left(t, l, "a", ""); n != 5 {
		t.Errorf("it took: %d left", n)
	}
}

func TestBadRequests(t *testing.T) {
	var decided atomic.Int64
	s, err := store.Open(context.Background(), "mem:", store.Options{Observe: func(name string, _ time.Duration, _ error) {
		if name != "ratelimit.beat" {
			decided.Add(1)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := limiter(t, s, patient, all(5, time.Minute)...)
	long := strings.Repeat("x", 600)
	many := make([]ratelimit.Request, 65)
	for i := range many {
		many[i] = req("token", "k", 1)
	}
	for _, c := range []struct {
		field string
		reqs  []ratelimit.Request
	}{
		{"requests", nil}, {"requests", many},
		{"Rule", []ratelimit.Request{req("", "k", 1)}}, {"Rule", []ratelimit.Request{req(long, "k", 1)}}, {"Rule", []ratelimit.Request{req("unknown", "k", 1)}},
		{"Rule", []ratelimit.Request{{Rule: "token", Domain: "unknown", Cost: 1}}},
		{"Key", []ratelimit.Request{req("token", long, 1)}}, {"Key", []ratelimit.Request{req("token", "a\x00", 1)}}, {"Key", []ratelimit.Request{req("token", "\xff", 1)}},
		{"Cost", []ratelimit.Request{req("token", "k", 0)}}, {"Cost", []ratelimit.Request{req("token", "k", -1)}},
		{"Cost", []ratelimit.Request{req("token", "k", 1<<62), req("token", "k", 1<<62)}},
		{"Cost", []ratelimit.Request{req("fixed", "k", 1), req("token", "k", 6)}}, {"Cost", []ratelimit.Request{req("slots", "k", 3), req("slots", "k", 3)}},
	} {
		if _, err := l.Allow(context.Background(), c.reqs); field(err) != c.field {
			t.Errorf("%.100v: %v does not name %s", c.reqs, err, c.field)
		}
	}
	for _, id := range []string{"", long, "a b", "a:b", "é"} {
		if _, err := l.Reserve(context.Background(), id, []ratelimit.Request{req("token", "k", 1)}); field(err) != "id" {
			t.Errorf("id %.20q: %v", id, err)
		}
	}
	if n := decided.Load(); n > 0 {
		t.Errorf("%d decisions were made", n)
	}
	res, err := l.Reserve(context.Background(), "r", []ratelimit.Request{req("token", "k", 1)})
	if err != nil {
		t.Fatal(err)
	}
	for _, actual := range [][]int64{{}, {1, 1}, {-1}, {1 << 62}} {
		if err := res.Commit(context.Background(), actual...); field(err) != "actual" {
			t.Errorf("actual %v: %v", actual, err)
		}
	}
}

func TestBadOptions(t *testing.T) {
	w := newWorld(t)
	set, err := ratelimit.NewRules()
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]ratelimit.Options{
		"Processes": {Processes: -1}, "Timeout": {Timeout: time.Minute}, "Beat": {Beat: time.Hour}, "ReserveFor": {ReserveFor: time.Millisecond},
	} {
		if _, err := ratelimit.New(w.store, set, o); field(err) != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ratelimit.New(w.store, nil, ratelimit.Options{}); field(err) != "rules" {
		t.Errorf("no rules: %v", err)
	}
}
