package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(childEnv); url != "" {
		leasingChild(url)
		return
	}
	if code := m.Run(); code != 0 {
		os.Exit(code)
	}
	if err := goleak.Find(storetest.Lingering()...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var conformance = []struct {
	name, why string
	run       func(t *testing.T, s *store.Store)
}{
	{"admits and refuses", "so much at once, and no more", admits},
	{"comes back", "who comes back when told comes in, and not much earlier", comesBack},
	{"turns", "a leaky bucket tells each when", turns},
	{"many callers", "together they get what one would", manyCallers},
	{"slots", "a slot comes back when it is released, and when its caller is dead", slots},
	{"all or nothing", "what one rule refuses no rule counts", allOrNothing},
	{"check", "to look costs nothing", check},
	{"one key twice", "requests of one rule and key are decided together", twice},
	{"shadow", "it counts and never refuses", shadow},
	{"blocked and unlimited", "nobody is asked", blocked},
	{"independent", "several slots, one after the other, and given back", independent},
	{"reserve", "costs that are known afterwards", reserve},
	{"reserve again", "the same id takes and settles once", reserveAgain},
	{"resume", "it is settled by another process, by other rules", resumes},
	{"renew", "a slot is kept by whoever has its reservation", renews},
	{"a shadow that is too small", "it changes nothing for the others", smallShadow},
	{"reload", "what was counted stays", reload},
	{"overrides", "some keys have other limits", overrides},
	{"leased", "processes decide by what they have leased, and give back the rest", leasedShares},
	{"leased with others", "what another rule refuses is given back to the lease", leasedWithOthers},
}

func TestConformance(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		for _, c := range conformance {
			t.Run(c.name, func(t *testing.T) { c.run(t, s) })
		}
	})
}

// all is a rule of each algorithm that admits n at once and forgets within a second or a minute.
func all(n int64, window time.Duration) []ratelimit.Rule {
	q := ratelimit.Quota{Limit: n, Window: window}
	return []ratelimit.Rule{
		{Name: "token", Algorithm: ratelimit.TokenBucket, Quota: q},
		{Name: "leaky", Algorithm: ratelimit.LeakyBucket, Quota: q},
		{Name: "fixed", Algorithm: ratelimit.FixedWindow, Quota: q},
		{Name: "counter", Algorithm: ratelimit.SlidingCounter, Quota: q},
		{Name: "log", Algorithm: ratelimit.SlidingLog, Quota: q},
		{Name: "slots", Algorithm: ratelimit.Concurrency, Quota: ratelimit.Quota{Limit: n, Lease: min(window, time.Hour)}},
	}
}

// patient is for tests of what is decided: a busy machine is no store that is gone.
var patient = ratelimit.Options{Timeout: 10 * time.Second}

func limiter(t *testing.T, s *store.Store, o ratelimit.Options, rules ...ratelimit.Rule) *ratelimit.Limiter {
	t.Helper()
	set, err := ratelimit.NewRules(rules...)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ratelimit.New(s, set, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

func req(rule, key string, cost int64) ratelimit.Request {
	return ratelimit.Request{Rule: rule, Key: key, Cost: cost}
}

func allow(t *testing.T, l *ratelimit.Limiter, reqs ...ratelimit.Request) ratelimit.Decision {
	t.Helper()
	d, err := l.Allow(context.Background(), reqs)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func left(t *testing.T, l *ratelimit.Limiter, rule, key string) int64 {
	t.Helper()
	d, err := l.Check(context.Background(), []ratelimit.Request{req(rule, key, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return d.Statuses[0].Remaining
}

// until polls for a state.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	patience := 20 * time.Second
	if len(mutant.Active()) > 0 {
		patience = 3 * time.Second // it is expected to fail
	}
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func admits(t *testing.T, s *store.Store) {
	for _, r := range all(3, 24*time.Hour) {
		l := limiter(t, s, patient, r)
		for i := range int64(3) {
			d := allow(t, l, req(r.Name, "admits", 1))
			if st := d.Statuses[0]; !d.Allowed || st.Refused || st.Remaining != 2-i || !d.Atomic || d.Source != ratelimit.FromStore {
				t.Errorf("%s: call %d: %+v", r.Name, i, d)
			}
		}
		d := allow(t, l, req(r.Name, "admits", 1))
		if st := d.Statuses[0]; d.Allowed || !st.Refused || st.Remaining != 0 || d.Wait <= 0 || st.Reset <= 0 || st.Reset > d.Wait {
			t.Errorf("%s: one too many: %+v", r.Name, d)
		}
		if names := d.Refused(); len(names) != 1 || names[0] != r.Name {
			t.Errorf("%s: refused by %v", r.Name, names)
		}
		if d := allow(t, l, req(r.Name, "somebody else", 3)); !d.Allowed || d.Statuses[0].Remaining != 0 {
			t.Errorf("%s: another key: %+v", r.Name, d)
		}
	}
}

func comesBack(t *testing.T, s *store.Store) {
	for _, r := range all(2, 300*time.Millisecond) {
		l := limiter(t, s, patient, r)
		var refused ratelimit.Decision
		until(t, r.Name+" refuses", func() bool { // a window may end in between
			refused = allow(t, l, req(r.Name, "back", 1))
			return !refused.Allowed
		})
		began := time.Now()
		if refused.Wait > 600*time.Millisecond {
			t.Errorf("%s: %s is too long", r.Name, refused.Wait)
		}
		time.Sleep(refused.Wait) // what the test is about
		if d := allow(t, l, req(r.Name, "back", 1)); !d.Allowed {
			t.Errorf("%s: refused again %s after it said %s: %+v", r.Name, time.Since(began), refused.Wait, d)
		}
	}
}

func turns(t *testing.T, s *store.Store) {
	l := limiter(t, s, patient, ratelimit.Rule{Name: "shape", Algorithm: ratelimit.LeakyBucket, Quota: ratelimit.Quota{Limit: 1, Window: time.Hour, Burst: 4}})
	for i, want := range []time.Duration{0, time.Hour, 2 * time.Hour, 3 * time.Hour} {
		d := allow(t, l, req("shape", "", 1))
		if !d.Allowed || d.Wait > want || d.Wait < want-time.Minute {
			t.Errorf("call %d: %+v", i, d)
		}
	}
	if d := allow(t, l, req("shape", "", 1)); d.Allowed || d.Wait <= 0 || d.Wait > time.Hour {
		t.Errorf("a fifth: %+v", d)
	}
}

func manyCallers(t *testing.T, s *store.Store) {
	for _, r := range all(50, 24*time.Hour) {
		l, other := limiter(t, s, patient, r), limiter(t, s, patient, r)
		var admitted atomic.Int64
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				l := []*ratelimit.Limiter{l, other}[i%2]
				for range 10 {
					if d, err := l.Allow(context.Background(), []ratelimit.Request{req(r.Name, "many", 1)}); err != nil {
						t.Error(err)
					} else if d.Allowed {
						admitted.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if n := admitted.Load(); n != 50 {
			t.Errorf("%s: %d came in, not 50", r.Name, n)
		}
	}
}

func slots(t *testing.T, s *store.Store) {
	ctx := context.Background()
	l := limiter(t, s, patient, ratelimit.Rule{Name: "slow", Algorithm: ratelimit.Concurrency, Quota: ratelimit.Quota{Limit: 2, Lease: time.Hour}},
		ratelimit.Rule{Name: "dead", Algorithm: ratelimit.Concurrency, Quota: ratelimit.Quota{Limit: 1, Lease: 200 * time.Millisecond}})
	one, two := allow(t, l, req("slow", "slots", 1)), allow(t, l, req("slow", "slots", 1))
	if d := allow(t, l, req("slow", "slots", 1)); !one.Allowed || !two.Allowed || d.Allowed {
		t.Errorf("%v %v %v", one, two, d)
	}
	for range 2 { // a second release frees nobody else's
		if err := one.Release(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if n := left(t, l, "slow", "slots"); n != 1 {
		t.Errorf("%d left after a release", n)
	}
	if still, err := two.Renew(ctx); !still || err != nil {
		t.Errorf("renew: %v, %v", still, err)
	}
	if n := left(t, l, "slow", "slots"); n != 1 {
		t.Errorf("%d left after a renewal", n)
	}
	gone := allow(t, l, req("dead", "slots", 1)) // nobody releases it
	until(t, "the slot of a dead caller comes back", func() bool { return allow(t, l, req("dead", "slots", 1)).Allowed })
	if still, err := gone.Renew(ctx); still && left(t, l, "dead", "slots") == 0 || err != nil {
		until(t, "it is not prolonged for ever", func() bool { return left(t, l, "dead", "slots") == 1 })
	}
}

func allOrNothing(t *testing.T, s *store.Store) {
	rules := all(3, 24*time.Hour)
	l := limiter(t, s, patient, append(rules, ratelimit.Rule{Name: "tight", Quota: ratelimit.Quota{Limit: 1, Window: 24 * time.Hour}})...)
	var reqs []ratelimit.Request
	for _, r := range rules {
		reqs = append(reqs, req(r.Name, "nothing", 2))
	}
	reqs = append(reqs, req("tight", "nothing", 1))
	if d := allow(t, l, req("tight", "nothing", 1)); !d.Allowed {
		t.Fatal(d)
	}
	for range 3 {
		d := allow(t, l, reqs...)
		if names := d.Refused(); d.Allowed || !d.Atomic || len(names) != 1 || names[0] != "tight" || d.Wait < 23*time.Hour {
			t.Errorf("%+v", d)
		}
		for _, st := range d.Statuses[:len(rules)] {
			if st.Refused || st.Remaining != 3 {
				t.Errorf("%s counted what tight refused: %+v", st.Request.Rule, st)
			}
		}
	}
	for _, r := range rules { // and what it refuses itself it does not count
		if d := allow(t, l, req(r.Name, "itself", 2)); !d.Allowed {
			t.Errorf("%s: %+v", r.Name, d)
		}
		for range 3 {
			if d := allow(t, l, req(r.Name, "itself", 2)); d.Allowed {
				t.Errorf("%s: %+v", r.Name, d)
			}
		}
		if d := allow(t, l, req(r.Name, "itself", 1)); !d.Allowed {
			t.Errorf("%s counted what it refused: %+v", r.Name, d)
		}
	}
}

func check(t *testing.T, s *store.Store) {
	for _, r := range all(2, 24*time.Hour) {
		l := limiter(t, s, patient, r)
		for range 3 {
			d, err := l.Check(context.Background(), []ratelimit.Request{req(r.Name, "check", 2)})
			if err != nil || !d.Allowed || d.Statuses[0].Remaining != 2 {
				t.Errorf("%s: %+v, %v", r.Name, d, err)
			}
		}
		allow(t, l, req(r.Name, "check", 1))
		d, err := l.Check(context.Background(), []ratelimit.Request{req(r.Name, "check", 2)})
		if err != nil || d.Allowed || d.Statuses[0].Remaining != 1 {
			t.Errorf("%s: %+v, %v", r.Name, d, err)
		}
	}
}

func twice(t *testing.T, s *store.Store) {
	l := limiter(t, s, patient, all(5, 24*time.Hour)...)
	for _, r := range all(5, 24*time.Hour) {
		d := allow(t, l, req(r.Name, "twice", 2), req(r.Name, "other", 1), req(r.Name, "twice", 1))
		if !d.Allowed || d.Statuses[0].Remaining != 2 || d.Statuses[2].Remaining != 2 || d.Statuses[1].Remaining != 4 {
			t.Errorf("%s: %+v", r.Name, d)
		}
		if d := allow(t, l, req(r.Name, "twice", 2), req(r.Name, "twice", 1)); d.Allowed {
			t.Errorf("%s: each alone would come in, both do not: %+v", r.Name, d)
		}
	}
}

func shadow(t *testing.T, s *store.Store) {
	for _, r := range all(1, 24*time.Hour) {
		r.Shadow = true
		l := limiter(t, s, patient, r, ratelimit.Rule{Name: "real", Quota: ratelimit.Quota{Limit: 5, Window: 24 * time.Hour}})
		for i := range 3 {
			d := allow(t, l, req(r.Name, "shadow", 1), req("real", "shadow "+r.Name, 1))
			if st := d.Statuses[0]; !d.Allowed || st.Refused != (i > 0) || !st.Shadow || len(d.Refused()) > 0 {
				t.Errorf("%s: call %d: %+v", r.Name, i, d)
			}
		}
		if n := left(t, l, "real", "shadow "+r.Name); n != 2 {
			t.Errorf("%s: the real one has %d left", r.Name, n)
		}
	}
}

func blocked(t *testing.T, s *store.Store) {
	l := limiter(t, s, patient, ratelimit.Rule{Name: "no", Blocked: true}, ratelimit.Rule{Name: "yes", Unlimited: true},
		ratelimit.Rule{Name: "some", Quota: ratelimit.Quota{Limit: 5, Window: 24 * time.Hour}})
	if d := allow(t, l, req("yes", "", 1000)); !d.Allowed || d.Source != ratelimit.FromRules || d.Statuses[0].Remaining != ratelimit.Unlimited {
		t.Errorf("%+v", d)
	}
	if d := allow(t, l, req("some", "blocked", 1), req("no", "", 1)); d.Allowed || d.Source != ratelimit.FromRules || d.Statuses[0].Remaining != -1 {
		t.Errorf("%+v", d)
	}
	if d := allow(t, l, req("some", "blocked", 1), req("yes", "", 1)); !d.Allowed || d.Statuses[0].Remaining != 4 {
		t.Errorf("%+v", d)
	}
}

func independent(t *testing.T, s *store.Store) {
	var rules []ratelimit.Rule
	for _, r := range all(3, 24*time.Hour) {
		r.Independent = true
		rules = append(rules, r)
	}
	l := limiter(t, s, patient, append(rules, ratelimit.Rule{Name: "last", Quota: ratelimit.Quota{Limit: 1, Window: 24 * time.Hour}})...)
	var reqs []ratelimit.Request
	for _, r := range rules {
		reqs = append(reqs, req(r.Name, "independent", 2))
	}
	reqs = append(reqs, req("last", "independent", 1))
	allow(t, l, req("last", "independent", 1))
	d := allow(t, l, reqs...)
	if names := d.Refused(); d.Allowed || d.Atomic || len(names) != 1 || names[0] != "last" {
		t.Errorf("%+v", d)
	}
	for _, r := range rules {
		if r.Algorithm == ratelimit.LeakyBucket {
			continue // a turn that was given is not given again
		}
		if n := left(t, l, r.Name, "independent"); n != 3 {
			t.Errorf("%s: %d left: not given back", r.Name, n)
		}
	}
	if d := allow(t, l, reqs[0], reqs[2]); !d.Allowed || d.Atomic {
		t.Errorf("%+v", d)
	}
}

func reserve(t *testing.T, s *store.Store) {
	ctx := context.Background()
	for _, r := range all(10, 24*time.Hour) {
		l := limiter(t, s, patient, r)
		take := func(key string, guess int64) *ratelimit.Reservation {
			t.Helper()
			res, err := l.Reserve(ctx, r.Name+"-"+key, []ratelimit.Request{req(r.Name, key, guess)})
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		gives := r.Algorithm != ratelimit.LeakyBucket
		less, more, none := take("less", 8), take("more", 2), take("none", 8)
		if n := left(t, l, r.Name, "less"); n != 2 {
			t.Errorf("%s: %d left after the guess", r.Name, n)
		}
		if err := errors.Join(less.Commit(ctx, 3), more.Commit(ctx, 9), none.Refund(ctx)); err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
		want := map[string]int64{"less": 7, "more": 1, "none": 10}
		if r.Algorithm == ratelimit.Concurrency { // the call is over
			want = map[string]int64{"less": 10, "more": 10, "none": 10}
		}
		for key, n := range want {
			if got := left(t, l, r.Name, key); gives && got != n {
				t.Errorf("%s, %s: %d left, not %d", r.Name, key, got, n)
			}
		}
		if res := take("less2", 10); !res.Allowed {
			t.Errorf("%s: %+v", r.Name, res.Decision)
		}
		refused, err := l.Reserve(ctx, r.Name+"-refused", []ratelimit.Request{req(r.Name, "less2", 1)})
		if err != nil || refused.Allowed {
			t.Errorf("%s: %+v, %v", r.Name, refused, err)
		}
		if err := refused.Commit(ctx, 1); !errors.Is(err, ratelimit.ErrNotReserved) {
			t.Errorf("%s: commit of what was refused: %v", r.Name, err)
		}
	}
}

func reserveAgain(t *testing.T, s *store.Store) {
	ctx := context.Background()
	for _, r := range all(10, 24*time.Hour) {
		l := limiter(t, s, patient, r)
		var last *ratelimit.Reservation
		for range 3 {
			res, err := l.Reserve(ctx, r.Name+"-again", []ratelimit.Request{req(r.Name, "again", 4)})
			if err != nil || !res.Allowed {
				t.Fatalf("%s: %+v, %v", r.Name, res, err)
			}
			last = res
		}
		if n := left(t, l, r.Name, "again"); n != 6 {
			t.Errorf("%s: %d left after three times the same", r.Name, n)
		}
		for range 3 {
			if err := last.Commit(ctx, 2); err != nil {
				t.Errorf("%s: %v", r.Name, err)
			}
		}
		if n := left(t, l, r.Name, "again"); n != 8 && r.Algorithm != ratelimit.LeakyBucket && r.Algorithm != ratelimit.Concurrency {
			t.Errorf("%s: %d left after three times the same commit", r.Name, n)
		}
		if err := last.Refund(ctx); !errors.Is(err, ratelimit.ErrSettled) {
			t.Errorf("%s: another settlement: %v", r.Name, err)
		}
		if _, err := l.Reserve(ctx, r.Name+"-again", []ratelimit.Request{req(r.Name, "again", 4)}); !errors.Is(err, ratelimit.ErrSettled) {
			t.Errorf("%s: reserved once more: %v", r.Name, err)
		}
	}
}

func reload(t *testing.T, s *store.Store) {
	for _, r := range all(10, 24*time.Hour) {
		l := limiter(t, s, patient, r)
		allow(t, l, req(r.Name, "reload", 6))
		r.Limit = 20
		r.Shadow = true
		set, err := ratelimit.NewRules(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Reload(set); err != nil {
			t.Fatal(err)
		}
		n := left(t, l, r.Name, "reload")
		bucket := r.Algorithm == ratelimit.TokenBucket || r.Algorithm == ratelimit.LeakyBucket
		if bucket && n >= 20 || !bucket && n != 14 { // a bucket holds time: 6 units of before are 12 of these
			t.Errorf("%s: %d left", r.Name, n)
		}
	}
}

func overrides(t *testing.T, s *store.Store) {
	l := limiter(t, s, patient, ratelimit.Rule{Name: "tenant", Quota: ratelimit.Quota{Limit: 2, Window: 24 * time.Hour},
		Overrides: map[string]ratelimit.Quota{"acme": {Limit: 20, Window: 24 * time.Hour}}})
	for key, n := range map[string]int64{"acme": 20, "other": 2} {
		if d := allow(t, l, req("tenant", key, 1)); d.Statuses[0].Remaining != n-1 || d.Statuses[0].Quota.Limit != n {
			t.Errorf("%s: %+v", key, d)
		}
	}
}
