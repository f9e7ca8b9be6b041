package ratelimit

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

func newLeasing(t *testing.T) *Limiter {
	t.Helper()
	s, err := store.Open(context.Background(), "mem:", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	set, err := NewRules(Rule{Name: "r", Algorithm: FixedWindow, Quota: Quota{Limit: 100_000, Window: 24 * time.Hour}, Leased: 100})
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(s, set, Options{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

func (s *leases) count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.all)
}

// A key that nobody asks for is forgotten, and nothing of what was leased is lost when it comes back.
func TestLeasesForgotten(t *testing.T) {
	l := newLeasing(t)
	ctx, reqs := context.Background(), []Request{{Rule: "r", Key: "k", Cost: 1}}
	used := int64(0)
	for range 2 {
		for byLease := false; !byLease; {
			d, err := l.Allow(ctx, reqs)
			if err != nil || !d.Allowed {
				t.Fatal(d, err)
			}
			used++
			byLease = d.Source == FromLease
		}
		for end := time.Now().Add(20 * time.Second); l.leases.count() > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("an idle key is not forgotten")
			}
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			d, err := l.Check(ctx, reqs)
			if err != nil {
				t.Fatal(err)
			}
			if d.Statuses[0].Remaining == 100_000-used {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%d left after %d", d.Statuses[0].Remaining, used)
			}
		}
	}
}

// However many keys there are, a process remembers so many, and a key that is hot among them is leased.
func TestLeasesBounded(t *testing.T) {
	l := newLeasing(t)
	ctx := context.Background()
	ask := func(key string) Source {
		d, err := l.Allow(ctx, []Request{{Rule: "r", Key: key, Cost: 1}})
		if err != nil || !d.Allowed {
			t.Fatal(d, err)
		}
		return d.Source
	}
	for i := range mostLeases + 500 {
		ask(fmt.Sprint("cold", i))
	}
	if n := l.leases.count(); n > mostLeases {
		t.Errorf("%d keys are remembered", n)
	}
	for end := time.Now().Add(20 * time.Second); ask("hot") != FromLease; {
		if time.Now().After(end) {
			t.Fatal("a hot key among many is not leased")
		}
	}
	if n := l.leases.count(); n > mostLeases {
		t.Errorf("%d keys are remembered", n)
	}
}
