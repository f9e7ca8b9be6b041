package ratelimit

import (
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

// However often other rules refuse what was taken of a lease, a process holds no more than its share.
func TestRefusalsDoNotRaiseWhatIsHeld(t *testing.T) {
	s, err := store.Open(t.Context(), "mem:", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	day := Quota{Limit: 10_000, Window: 24 * time.Hour}
	rules, err := NewRules(Rule{Name: "leased", Quota: day, Leased: 100}, Rule{Name: "tight", Quota: Quota{Limit: 1, Window: 24 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(s, rules, Options{Timeout: 5 * time.Second, Processes: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close(t.Context()) }()
	for end := time.Now().Add(20 * time.Second); l.Live() != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the process does not know that it is alone")
		}
	}
	ask := func(reqs ...Request) Decision {
		d, err := l.Allow(t.Context(), reqs)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	ask(Request{Rule: "tight", Cost: 1})
	for range 100 { // it becomes hot
		ask(Request{Rule: "leased", Cost: 1})
	}
	lim, err := rules.find(Request{Rule: "leased", Cost: 1})
	if err != nil {
		t.Fatal(err)
	}
	a := l.leaseOf(lim, "")
	most, leases := int64(0), 0
	for i := range 3000 {
		if i%10 == 0 {
			ask(Request{Rule: "leased", Cost: 1}) // it stays so
		}
		if d := ask(Request{Rule: "leased", Cost: 50}, Request{Rule: "tight", Cost: 1}); d.Allowed {
			t.Fatalf("%+v", d)
		}
		a.mu.Lock()
		if !a.asking {
			most = max(most, a.held)
			leases = int(a.seq)
		}
		a.mu.Unlock()
	}
	if leases < 3 {
		t.Skipf("only %d requests: it was not hot", leases)
	}
	if most > 100 {
		t.Errorf("it held %d, and its share is 100", most)
	}
}
