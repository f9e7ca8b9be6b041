package lock_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

func TestMain(m *testing.M) {
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
	{"exclusive", "two owners at once is what a lock is there to prevent", exclusive},
	{"tokens grow", "a guard compares them, also after nobody has held the name for long", tokensGrow},
	{"first come first served", "whoever waits longest is next", firstCome},
	{"shared and exclusive", "readers that keep coming do not starve a writer", sharedExclusive},
	{"semaphore", "permits are counted, and all say the same number", semaphore},
	{"expiry", "a holder that is gone costs its lease's time", expiry},
	{"renewal", "a lease outlives its TTL while its holder lives", renewal},
	{"end of hold", "nobody holds a name for ever", maxHold},
	{"lost", "a holder that was put out learns it", lost},
	{"late release", "it leaves a successor's lease alone", lateRelease},
	{"a waiter that goes away", "it is not served, and leaves nothing behind", waiterLeaves},
	{"several", "all or none, and no circle of waiting", several},
	{"look", "people see who holds, since when, and who waits", lookAt},
	{"fence", "tokens may come from elsewhere", fence},
	{"close", "what is held is given back", closing},
}

func TestConformance(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		for _, c := range conformance {
			t.Run(c.name, func(t *testing.T) { c.run(t, s) })
		}
	})
}

func locker(t *testing.T, s *store.Store, o lock.Options) *lock.Locker {
	t.Helper()
	l, err := lock.New(s, o)
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

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func get(t *testing.T, l *lock.Locker, name string, r lock.Request) *lock.Lease {
	t.Helper()
	lease, err := l.Acquire(within(t, 20*time.Second), name, r)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func give(t *testing.T, lease *lock.Lease) {
	t.Helper()
	if err := lease.Release(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
}

// until polls for a state.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func waiters(t *testing.T, l *lock.Locker, name string) int64 {
	t.Helper()
	info, err := l.Info(within(t, 20*time.Second), name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Waiters
}

func exclusive(t *testing.T, s *store.Store) {
	l, other := locker(t, s, lock.Options{}), locker(t, s, lock.Options{})
	a := get(t, l, "exclusive", lock.Request{})
	if _, err := other.TryAcquire(within(t, 20*time.Second), "exclusive", lock.Request{}); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("second owner: %v", err)
	}
	short := within(t, 50*time.Millisecond)
	if _, err := other.Acquire(short, "exclusive", lock.Request{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second owner that waits: %v", err)
	}
	give(t, a)
	b := get(t, other, "exclusive", lock.Request{}) // behind the one that has left the line, or is about to
	if b.Token() <= a.Token() {
		t.Fatalf("token %d after %d", b.Token(), a.Token())
	}
	give(t, b)
	if err := b.Release(context.Background()); err != nil {
		t.Errorf("a second release: %v", err)
	}
	if cause := context.Cause(b.Context()); !errors.Is(cause, lock.ErrReleased) {
		t.Errorf("context: %v", cause)
	}
}

func tokensGrow(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	var mu sync.Mutex
	var tokens []int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				lease, err := l.Acquire(within(t, 20*time.Second), "tokens", lock.Request{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				tokens = append(tokens, lease.Token()) // under the lock that is tested: in order
				mu.Unlock()
				if err := lease.Release(within(t, 20*time.Second)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(tokens) != 160 || !slices.IsSorted(tokens) || len(slices.Compact(slices.Clone(tokens))) != 160 {
		t.Errorf("%d tokens: %v", len(tokens), tokens)
	}
}

func firstCome(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	first := get(t, l, "line", lock.Request{})
	order := make(chan int, 30)
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			lease, err := l.Acquire(within(t, 20*time.Second), "line", lock.Request{})
			if err != nil {
				t.Error(err)
				return
			}
			order <- i
			if err := lease.Release(within(t, 20*time.Second)); err != nil {
				t.Error(err)
			}
		})
		until(t, "waits", func() bool { return waiters(t, l, "line") == int64(i+1) })
	}
	if _, err := l.TryAcquire(within(t, 20*time.Second), "line", lock.Request{}); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("one that does not wait: %v", err)
	}
	give(t, first)
	wg.Wait()
	close(order)
	var got []int
	for i := range order {
		got = append(got, i)
	}
	if len(got) != 30 || !slices.IsSorted(got) {
		t.Errorf("served in the order %v", got)
	}
}

func sharedExclusive(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	a := get(t, l, "rw", lock.Request{Shared: true})
	b := get(t, l, "rw", lock.Request{Shared: true})
	if b.Token() <= a.Token() {
		t.Errorf("tokens %d, %d", a.Token(), b.Token())
	}
	wrote := make(chan *lock.Lease)
	go func() {
		w, err := l.Acquire(within(t, 20*time.Second), "rw", lock.Request{})
		if err != nil {
			t.Error(err)
		}
		wrote <- w
	}()
	until(t, "the writer waits", func() bool { return waiters(t, l, "rw") == 1 })
	if _, err := l.TryAcquire(within(t, 20*time.Second), "rw", lock.Request{Shared: true}); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("a reader behind a writer that waits: %v", err)
	}
	give(t, a)
	give(t, b)
	give(t, <-wrote)
	give(t, get(t, l, "rw", lock.Request{Shared: true}))
}

func semaphore(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	two := get(t, l, "pool", lock.Request{Permits: 2, Of: 3})
	one := get(t, l, "pool", lock.Request{Permits: 1, Of: 3})
	ctx := within(t, 20*time.Second)
	if _, err := l.TryAcquire(ctx, "pool", lock.Request{Permits: 1, Of: 3}); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("a fourth permit: %v", err)
	}
	if _, err := l.TryAcquire(ctx, "pool", lock.Request{Permits: 1, Of: 4}); !errors.Is(err, lock.ErrMode) {
		t.Errorf("of four: %v", err)
	}
	give(t, one)
	give(t, get(t, l, "pool", lock.Request{Permits: 1, Of: 3}))
	give(t, two)
	give(t, get(t, l, "pool", lock.Request{Permits: 4, Of: 4}))
}

// dead is a Locker whose leases nobody renews: its process has ended, as far as the store knows.
func expiry(t *testing.T, s *store.Store) {
	lock.Abandon(t, s, "expiry", 300*time.Millisecond)
	l := locker(t, s, lock.Options{})
	if _, err := l.TryAcquire(within(t, 20*time.Second), "expiry", lock.Request{}); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("before it expired: %v", err)
	}
	began := time.Now()
	give(t, get(t, l, "expiry", lock.Request{}))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

func renewal(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{TTL: 400 * time.Millisecond})
	a := get(t, l, "renewal", lock.Request{})
	select {
	case <-a.Context().Done():
		t.Fatal(context.Cause(a.Context()))
	case <-time.After(1200 * time.Millisecond): // three lives
	}
	if _, err := l.TryAcquire(within(t, 20*time.Second), "renewal", lock.Request{}); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("after three lives: %v", err)
	}
	give(t, a)
}

func maxHold(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{TTL: 200 * time.Millisecond, MaxHold: 500 * time.Millisecond})
	began := time.Now()
	a := get(t, l, "hold", lock.Request{})
	<-a.Context().Done()
	if took := time.Since(began); took > 5*time.Second || !errors.Is(context.Cause(a.Context()), lock.ErrLost) || !strings.Contains(context.Cause(a.Context()).Error(), "MaxHold") {
		t.Errorf("ended after %s: %v", took, context.Cause(a.Context()))
	}
	b := get(t, l, "hold", lock.Request{})
	if b.Token() <= a.Token() {
		t.Errorf("token %d after %d", b.Token(), a.Token())
	}
	give(t, b)
	if err := a.Release(context.Background()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("release of what is lost: %v", err)
	}
}

func lost(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{TTL: 300 * time.Millisecond})
	a := get(t, l, "lost", lock.Request{})
	if was, err := l.Break(within(t, 20*time.Second), "lost", a.Owner(), "a test"); err != nil || !was {
		t.Fatal(was, err)
	}
	select {
	case <-a.Context().Done():
	case <-time.After(10 * time.Second):
		t.Fatal("not told")
	}
	if cause := context.Cause(a.Context()); !errors.Is(cause, lock.ErrLost) {
		t.Errorf("told %v", cause)
	}
}

func lateRelease(t *testing.T, s *store.Store) {
	owner := lock.Abandon(t, s, "late", 100*time.Millisecond)
	l := locker(t, s, lock.Options{})
	b := get(t, l, "late", lock.Request{})
	if was, err := l.Break(within(t, 20*time.Second), "late", owner, "a late release"); err != nil || was {
		t.Errorf("the first owner had something: %v, %v", was, err)
	}
	if _, err := l.TryAcquire(within(t, 20*time.Second), "late", lock.Request{}); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("the successor's lease: %v", err)
	}
	give(t, b)
}

func waiterLeaves(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	a := get(t, l, "leaves", lock.Request{})
	ctx, cancel := context.WithCancelCause(context.Background())
	gone := make(chan error)
	go func() {
		_, err := l.Acquire(ctx, "leaves", lock.Request{})
		gone <- err
	}()
	until(t, "it waits", func() bool { return waiters(t, l, "leaves") == 1 })
	why := errors.New("a better idea")
	cancel(why)
	if err := <-gone; !errors.Is(err, why) {
		t.Errorf("it left with %v", err)
	}
	until(t, "it has left", func() bool { return waiters(t, l, "leaves") == 0 })
	give(t, a)
	give(t, get(t, l, "leaves", lock.Request{}))
}

func several(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			names := []string{"several-a", "several-b", "several-c"}
			if i%2 == 1 {
				slices.Reverse(names)
			}
			for range 5 {
				leases, err := l.AcquireAll(within(t, 20*time.Second), names, lock.Request{})
				if err != nil {
					t.Error(err)
					return
				}
				for k, lease := range leases {
					if lease.Name() != names[k] {
						t.Errorf("lease %d is of %s", k, lease.Name())
					}
					if err := lease.Release(within(t, 20*time.Second)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	held := get(t, l, "several-b", lock.Request{})
	if _, err := l.AcquireAll(within(t, 50*time.Millisecond), []string{"several-a", "several-b"}, lock.Request{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one of two is held: %v", err)
	}
	give(t, get(t, l, "several-a", lock.Request{})) // it was given back
	give(t, held)
}

func lookAt(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{Who: "worker 7"})
	a := get(t, l, "look", lock.Request{})
	info, err := l.Info(within(t, 20*time.Second), "look")
	if err != nil || len(info.Holders) != 1 {
		t.Fatal(info, err)
	}
	h := info.Holders[0]
	if h.Owner != a.Owner() || h.Token != a.Token() || h.Who != "worker 7" || h.Mode != "exclusive" || h.Until.Before(h.Since) || h.End.Before(h.Until) {
		t.Errorf("%+v", h)
	}
	all, err := l.List(within(t, 60*time.Second), 10_000)
	if err != nil || !slices.Contains(all, "look") {
		t.Errorf("list: %v, %v", all, err)
	}
	give(t, a)
	if info, err = l.Info(within(t, 20*time.Second), "look"); err != nil || len(info.Holders) != 0 {
		t.Errorf("after release: %+v, %v", info, err)
	}
}

func fence(t *testing.T, s *store.Store) {
	next := int64(41)
	l := locker(t, s, lock.Options{Fence: func(context.Context) (int64, error) {
		if next++; next == 43 {
			return 0, errors.New("out of numbers")
		}
		return next, nil
	}})
	a := get(t, l, "fence", lock.Request{})
	if a.Token() != 42 {
		t.Errorf("token %d", a.Token())
	}
	give(t, a)
	if _, err := l.Acquire(within(t, 20*time.Second), "fence", lock.Request{}); err == nil {
		t.Error("a lease without a token")
	}
	give(t, get(t, l, "fence", lock.Request{})) // the failed one gave it back
}

func closing(t *testing.T, s *store.Store) {
	l, err := lock.New(s, lock.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := get(t, l, "close", lock.Request{})
	ended := make(chan error)
	go func() {
		_, err := l.Acquire(context.Background(), "close", lock.Request{})
		ended <- err
	}()
	until(t, "it waits", func() bool { return waiters(t, l, "close") == 1 })
	if err := l.Close(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	// Whoever waited either got what was given back, which Close did not wait for, or ErrClosed.
	if err := <-ended; err != nil && !errors.Is(err, lock.ErrClosed) {
		t.Errorf("who waited: %v", err)
	}
	<-a.Context().Done()
	if _, err := l.Acquire(context.Background(), "close", lock.Request{}); !errors.Is(err, lock.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	other := locker(t, s, lock.Options{})
	give(t, get(t, other, "close", lock.Request{}))
}

func TestBadInput(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		for name, o := range map[string]lock.Options{
			"TTL": {TTL: time.Millisecond}, "MaxHold": {TTL: time.Hour, MaxHold: time.Second}, "MaxWaiters": {MaxWaiters: -1},
			"Who": {Who: "a\nb"}, "TTL too": {TTL: -time.Second},
		} {
			if _, err := lock.New(s, o); !errors.Is(err, lock.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		l := locker(t, s, lock.Options{})
		for _, c := range []struct {
			name string
			r    lock.Request
		}{
			{"", lock.Request{}}, {string(make([]byte, 600)), lock.Request{}}, {"a\x00b", lock.Request{}}, {"\xff", lock.Request{}},
			{"a", lock.Request{TTL: -1}}, {"a", lock.Request{TTL: time.Minute, MaxHold: time.Second}}, {"a", lock.Request{MaxHold: 25 * time.Hour}},
			{"a", lock.Request{Permits: 1}}, {"a", lock.Request{Permits: 3, Of: 2}}, {"a", lock.Request{Of: 2}},
			{"a", lock.Request{Permits: 1, Of: 1, Shared: true}}, {"a", lock.Request{Permits: 1, Of: 1 << 40}},
		} {
			if _, err := l.Acquire(context.Background(), c.name, c.r); !errors.Is(err, lock.ErrInvalid) {
				t.Errorf("%q %+v: %v", c.name, c.r, err)
			}
		}
		if all, err := l.List(context.Background(), 100); err != nil || len(all) > 0 {
			t.Errorf("something was written: %v, %v", all, err)
		}
	})
}
