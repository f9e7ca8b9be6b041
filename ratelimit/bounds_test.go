package ratelimit_test

import (
	"context"
	"fmt"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/store"
)

// happened is what a caller was told, with the caller's own time: units that were admitted (or whose turn
// it was) then, or given back.
type happened struct {
	at    int64 // µs
	units int64
	back  bool
}

// bound is an algorithm's formula from its documentation: how many units at most in an interval of
// length d. It knows nothing of how the package counts.
func bound(r ratelimit.Rule, biggest, d int64) *big.Rat {
	l, w := r.Limit, r.Window.Microseconds()
	ratio := func(a, b int64) *big.Rat { return big.NewRat(a, b) }
	sum := func(a int64, b *big.Rat) *big.Rat { return new(big.Rat).Add(ratio(a, 1), b) }
	unit := int64(1)
	if w > 0 {
		unit = (w + l - 1) / l
	}
	switch r.Algorithm {
	case ratelimit.TokenBucket:
		return sum(r.Burst, ratio(d, unit))
	case ratelimit.LeakyBucket:
		return sum(biggest, ratio(d, unit))
	case ratelimit.FixedWindow:
		return ratio(l*((d+w-1)/w+1), 1)
	case ratelimit.SlidingCounter:
		return new(big.Rat).Mul(ratio(l, 1), sum(1, ratio(d, w)))
	case ratelimit.SlidingLog:
		return ratio(l*(d/w+1), 1)
	}
	panic("no formula")
}

// exceeded looks at every interval that begins and ends with something that happened.
func exceeded(r ratelimit.Rule, all []happened) string {
	biggest := int64(0)
	for _, h := range all {
		if !h.back {
			biggest = max(biggest, h.units)
		}
	}
	for _, from := range all {
		for _, to := range all {
			if to.at < from.at {
				continue
			}
			var sum int64
			for _, h := range all {
				switch in := h.at >= from.at && h.at <= to.at; {
				case in && h.back:
					sum -= h.units
				case in:
					sum += h.units
				}
			}
			if most := bound(r, biggest, to.at-from.at); big.NewRat(sum, 1).Cmp(most) > 0 {
				return fmt.Sprintf("%d units in %d µs, more than %s, from %d", sum, to.at-from.at, most.FloatString(3), from.at)
			}
		}
	}
	return ""
}

// held is a slot from when it was admitted until it was given back or its lease was over.
type held struct{ from, to, units int64 }

func overfull(r ratelimit.Rule, all []held) string {
	for _, moment := range all {
		var sum int64
		for _, h := range all {
			if h.from <= moment.from && moment.from < h.to {
				sum += h.units
			}
		}
		if sum > r.Limit {
			return fmt.Sprintf("%d slots at %d, more than %d", sum, moment.from, r.Limit)
		}
	}
	return ""
}

// world is a store in memory with a clock that a test moves.
type world struct {
	now   atomic.Int64 // µs
	store *store.Store
	cases int
}

func newWorld(t testing.TB) *world {
	w := &world{}
	w.now.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro())
	s, err := store.Open(context.Background(), "mem:", store.Options{Clock: func() time.Time { return time.UnixMicro(w.now.Load()) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w.store = s
	return w
}

func anyRule(t *rapid.T, a ratelimit.Algorithm) ratelimit.Rule {
	r := ratelimit.Rule{Name: "r", Algorithm: a}
	r.Limit = rapid.Int64Range(1, 12).Draw(t, "limit")
	if a == ratelimit.Concurrency {
		r.Lease = time.Duration(rapid.Int64Range(1, 20).Draw(t, "lease")) * time.Millisecond
		return r
	}
	r.Window = time.Duration(rapid.Int64Range(1, 20).Draw(t, "window")) * time.Millisecond
	if a == ratelimit.TokenBucket || a == ratelimit.LeakyBucket {
		r.Burst = rapid.Int64Range(1, 15).Draw(t, "burst")
	}
	return r
}

// most is what a rule admits at once.
func most(r ratelimit.Rule) int64 {
	if r.Burst > 0 {
		return r.Burst
	}
	return r.Limit
}

func sign(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func TestBounds(t *testing.T) {
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.LeakyBucket, ratelimit.FixedWindow,
		ratelimit.SlidingCounter, ratelimit.SlidingLog, ratelimit.Concurrency} {
		t.Run(string(a), func(t *testing.T) {
			w := newWorld(t)
			rapid.Check(t, func(t *rapid.T) { w.schedule(t, anyRule(t, a)) })
		})
	}
}

// schedule lets callers come at random times, early and when they were told, with costs of all sizes, some of
// which turn out otherwise, and holds what they were told against the formula.
func (w *world) schedule(t *rapid.T, r ratelimit.Rule) {
	w.cases++
	set, err := ratelimit.NewRules(r)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ratelimit.New(w.store, set, patient)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close(context.Background()) }()
	ctx, key := context.Background(), fmt.Sprint("case", w.cases)
	var all []happened
	var slots []held
	type open struct {
		res   *ratelimit.Reservation
		guess int64
		slot  int
	}
	var opened []open
	wait, cost := time.Duration(0), int64(1)
	for i := range rapid.IntRange(1, 60).Draw(t, "calls") {
		gap := rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, 3_000), rapid.Int64Range(0, 30_000)).Draw(t, "gap")
		early := false
		if wait > 0 && rapid.Bool().Draw(t, "as told") { // or a microsecond before
			early = rapid.Bool().Draw(t, "early")
			gap = wait.Microseconds() - sign(early)
		} else {
			cost = rapid.Int64Range(1, most(r)).Draw(t, "cost")
			wait = 0
		}
		w.now.Add(gap)
		if len(opened) > 0 && rapid.IntRange(0, 2).Draw(t, "settle") == 0 {
			o := opened[0]
			opened = opened[1:]
			actual := rapid.Int64Range(0, 2*o.guess).Draw(t, "actual")
			if err := o.res.Commit(ctx, actual); err != nil {
				t.Fatal(err)
			}
			if actual < o.guess {
				all = append(all, happened{w.now.Load(), o.guess - actual, true})
			}
			slots[o.slot].to = min(slots[o.slot].to, w.now.Load())
			if wait > 0 { // others may come in earlier now, or later
				wait = 0
			}
		}
		res, err := l.Reserve(ctx, fmt.Sprintf("%s-%d", key, i), []ratelimit.Request{{Rule: "r", Key: key, Cost: cost}})
		if err != nil {
			t.Fatal(err)
		}
		if told := wait; told > 0 && res.Allowed == early {
			t.Fatalf("told to come back after %s, after %d µs allowed is %v", told, gap, res.Allowed)
		}
		if wait = 0; !res.Allowed {
			wait = res.Wait
			if wait <= 0 {
				t.Fatalf("refused without a time: %+v", res.Decision)
			}
			continue
		}
		now := w.now.Load()
		all = append(all, happened{now + res.Wait.Microseconds(), cost, false})
		slots = append(slots, held{now, now + r.Lease.Microseconds(), cost})
		if rapid.Bool().Draw(t, "corrects") {
			opened = append(opened, open{res, cost, len(slots) - 1})
		}
	}
	verdict := overfull(r, slots)
	if r.Algorithm != ratelimit.Concurrency {
		verdict = exceeded(r, all)
	}
	if verdict != "" {
		t.Fatalf("%+v: %s\n%+v", r, verdict, all)
	}
}

// The formulas are reached: with one unit less they do not hold. So the test above can fail.
func TestBoundsAreReached(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.LeakyBucket, ratelimit.FixedWindow,
		ratelimit.SlidingCounter, ratelimit.SlidingLog, ratelimit.Concurrency} {
		r := ratelimit.Rule{Name: string(a), Algorithm: a, Quota: ratelimit.Quota{Limit: 4, Window: 8 * time.Millisecond}}
		switch a {
		case ratelimit.TokenBucket, ratelimit.LeakyBucket:
			r.Burst = 3
		case ratelimit.Concurrency:
			r.Window, r.Lease = 0, 8*time.Millisecond
		}
		l := limiter(t, w.store, patient, r)
		w.now.Store(w.now.Load()/8_000*8_000 + 15_000) // the last millisecond of a window
		var all []happened
		var slots []held
		for range 40 {
			for d := allow(t, l, req(r.Name, "", 1)); d.Allowed; d = allow(t, l, req(r.Name, "", 1)) {
				all = append(all, happened{w.now.Load() + d.Wait.Microseconds(), 1, false})
				slots = append(slots, held{w.now.Load(), w.now.Load() + 8_000, 1})
			}
			w.now.Add(500)
		}
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
		less := r
		switch a {
		case ratelimit.TokenBucket:
			less.Burst--
		case ratelimit.LeakyBucket:
			less.Window += 4 * time.Microsecond
		default:
			less.Limit--
		}
		if a == ratelimit.Concurrency {
			if overfull(r, slots) != "" || overfull(less, slots) == "" {
				t.Errorf("%s: %v", a, slots)
			}
			continue
		}
		if exceeded(r, all) != "" || exceeded(less, all) == "" {
			t.Errorf("%s: %q, with less %q: %v", a, exceeded(r, all), exceeded(less, all), all)
		}
	}
}
