package ratelimit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/store"
)

// resumes: who settles a reservation need not be who made it, nor need the rules be the same by then.
func resumes(t *testing.T, s *store.Store) {
	ctx, rule := t.Context(), ratelimit.Rule{Name: "resumed", Quota: ratelimit.Quota{Limit: 1000, Window: 24 * time.Hour}, Algorithm: ratelimit.FixedWindow}
	made, other := limiter(t, s, patient, rule), limiter(t, s, patient, rule)
	what := []ratelimit.Request{req("resumed", "k", 600)}
	for range 2 { // the second time there is too little left for another one
		r, err := made.Reserve(ctx, "resumed-1", what)
		if err != nil || !r.Allowed || r.Statuses[0].Refused || r.Statuses[0].Wait != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	lower := rule
	lower.Limit = 500
	rules, err := ratelimit.NewRules(lower)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Reload(rules); err != nil {
		t.Fatal(err)
	}
	r, err := other.Resume("resumed-1", what)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Commit(ctx, 100); err != nil {
			t.Fatal(err)
		}
	}
	if left := allow(t, made, req("resumed", "k", 1)).Statuses[0].Remaining; left != 899 {
		t.Errorf("%d are left, not 899", left)
	}
	// A repeat in another process is as good as the first one.
	first, err := made.Reserve(ctx, "resumed-2", what)
	if err != nil || !first.Allowed {
		t.Fatal(first, err)
	}
	again, err := made.Reserve(ctx, "resumed-2", what)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Commit(ctx, 9); err != nil {
		t.Fatal(err)
	}
	if left := allow(t, made, req("resumed", "k", 1)).Statuses[0].Remaining; left != 889 {
		t.Errorf("%d are left, not 889", left)
	}
	nobody, err := other.Resume("resumed-3", what)
	if err != nil {
		t.Fatal(err)
	}
	if err := nobody.Refund(ctx); !errors.Is(err, ratelimit.ErrNotReserved) {
		t.Errorf("got %v", err)
	}
}

// renews: a slot is kept by whoever has its reservation, and by nobody else.
func renews(t *testing.T, s *store.Store) {
	ctx := t.Context()
	l := limiter(t, s, patient, ratelimit.Rule{Name: "kept", Algorithm: ratelimit.Concurrency, Quota: ratelimit.Quota{Limit: 2, Lease: time.Hour}})
	what := []ratelimit.Request{req("kept", "k", 1)}
	renew := func(id string) (bool, error) {
		t.Helper()
		r, err := l.Resume(id, what)
		if err != nil {
			t.Fatal(err)
		}
		return r.Renew(ctx)
	}
	if r, err := l.Reserve(ctx, "a", what); err != nil || !r.Allowed {
		t.Fatal(r, err)
	}
	if held, err := renew("a"); !held || err != nil {
		t.Errorf("%v, %v", held, err)
	}
	if held, err := renew("never"); held || !errors.Is(err, ratelimit.ErrNotReserved) {
		t.Errorf("who never reserved: %v, %v", held, err)
	}
	r, err := l.Resume("a", what)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Refund(ctx); err != nil {
		t.Fatal(err)
	}
	if held, err := renew("a"); held || !errors.Is(err, ratelimit.ErrSettled) {
		t.Errorf("after the refund: %v, %v", held, err)
	}
	if d := allow(t, l, req("kept", "k", 2)); !d.Allowed {
		t.Errorf("both slots should be free: %+v", d)
	}
}

// smallShadow: a shadow that never admits so much at once changes nothing for the others.
func smallShadow(t *testing.T, s *store.Store) {
	l := limiter(t, s, patient,
		ratelimit.Rule{Name: "counts", Algorithm: ratelimit.FixedWindow, Quota: ratelimit.Quota{Limit: 100, Window: 24 * time.Hour}},
		ratelimit.Rule{Name: "watches", Shadow: true, Algorithm: ratelimit.FixedWindow, Quota: ratelimit.Quota{Limit: 5, Window: 24 * time.Hour}})
	for _, reqs := range [][]ratelimit.Request{
		{req("watches", "k", 6), req("counts", "k", 6)},
		{req("watches", "k", 3), req("counts", "k", 6), req("watches", "k", 3)},
	} {
		d := allow(t, l, reqs...)
		if !d.Allowed || d.Source != ratelimit.FromStore || !d.Statuses[0].Refused && !d.Statuses[2].Refused {
			t.Errorf("%+v", d)
		}
	}
	if left := allow(t, l, req("counts", "k", 1)).Statuses[0].Remaining; left != 87 {
		t.Errorf("%d are left, not 87", left)
	}
	if d := allow(t, l, req("watches", "k", 6)); !d.Allowed || !d.Statuses[0].Refused {
		t.Errorf("%+v", d)
	}
	if _, err := l.Allow(context.Background(), []ratelimit.Request{req("counts", "k", 101)}); !errors.Is(err, ratelimit.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}
