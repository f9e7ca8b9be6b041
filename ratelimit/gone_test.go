package ratelimit_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// policies are a rule of each.
func policies(n int64) []ratelimit.Rule {
	q := ratelimit.Quota{Limit: n, Window: 24 * time.Hour}
	return []ratelimit.Rule{{Name: "share", Quota: q}, {Name: "open", Quota: q, OnError: ratelimit.Open}, {Name: "closed", Quota: q, OnError: ratelimit.Closed}}
}

// farAway opens a store on a server behind a network that the test makes bad.
func farAway(t *testing.T) (*store.Store, *storetest.Proxy) {
	t.Helper()
	proxy := storetest.NewProxy(t, storetest.Redis(t))
	return openURL(t, proxy.URL()), proxy
}

func openURL(t *testing.T, url string) *store.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := store.Open(ctx, url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func source(t *testing.T, l *ratelimit.Limiter) ratelimit.Source {
	t.Helper()
	d, err := l.Check(context.Background(), []ratelimit.Request{req("open", "probe", 1)})
	if err != nil {
		t.Fatal(err)
	}
	return d.Source
}

func TestStoreGone(t *testing.T) {
	for name, w := range map[string]storetest.Weather{
		"black hole": {DropUp: true, DropDown: true}, "answers lost": {DropDown: true}, "slow": {Delay: 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			s, proxy := farAway(t)
			l := limiter(t, s, ratelimit.Options{Timeout: 25 * time.Millisecond, Beat: 200 * time.Millisecond}, policies(10)...)
			until(t, "the store decides", func() bool { return source(t, l) == ratelimit.FromStore })
			proxy.Set(w)
			// Of a busy machine nothing is known, so: the median, and a number of calls.
			var took []time.Duration
			slow := 0
			for range 300 {
				began := time.Now()
				d := allow(t, l, req("share", "gone", 1))
				took = append(took, time.Since(began))
				if d.Source == ratelimit.FromPolicy && !d.Allowed && d.Statuses[0].Remaining > 0 {
					t.Errorf("%+v", d)
				}
				if time.Since(began) >= 20*time.Millisecond {
					slow++
				}
			}
			slices.Sort(took)
			t.Logf("p50 %s, p99 %s, longest %s; %d of 300 took 20 ms or more", took[150], took[297], took[299], slow)
			if took[150] > 2*time.Millisecond || slow > 20 || took[299] > 5*time.Second {
				t.Errorf("p50 %s, longest %s, %d took 20 ms or more", took[150], took[299], slow)
			}
			if d := allow(t, l, req("closed", "gone", 1)); d.Allowed || d.Wait <= 0 || d.Source != ratelimit.FromPolicy {
				t.Errorf("closed: %+v", d)
			}
			if d := allow(t, l, req("open", "gone", 1), req("closed", "gone", 1)); d.Allowed {
				t.Errorf("open with closed: %+v", d)
			}
			proxy.Set(storetest.Weather{})
			proxy.Cut()
			until(t, "the store decides again", func() bool { return source(t, l) == ratelimit.FromStore })
		})
	}
}

// Two processes that know of each other admit a half each, one that has never seen the store a tenth.
func TestLocalShare(t *testing.T) {
	s, proxy := farAway(t)
	o := ratelimit.Options{Timeout: 250 * time.Millisecond, Beat: time.Second, Processes: 10}
	a, b := limiter(t, s, o, policies(20)...), limiter(t, openURL(t, proxy.URL()), o, policies(20)...)
	never := limiter(t, nil, o, policies(20)...)
	until(t, "both know of both", func() bool { return a.Live() == 2 && b.Live() == 2 })
	proxy.Set(storetest.Weather{DropUp: true, DropDown: true})
	for name, want := range map[*ratelimit.Limiter]int{a: 10, b: 10, never: 2} {
		until(t, "the circuit opens", func() bool { return source(t, name) == ratelimit.FromPolicy })
		admitted := 0
		for range 40 {
			if allow(t, name, req("share", "local", 1)).Allowed {
				admitted++
			}
		}
		if admitted != want {
			t.Errorf("%d of 20 came in with %d processes, not %d", admitted, name.Live(), want)
		}
	}
	if d := allow(t, never, req("share", "big", 3)); d.Allowed {
		t.Errorf("a call above this process's share: %+v", d)
	}
	never.Attach(openURL(t, storetest.Redis(t).URL()))
	until(t, "it has a store now", func() bool { return source(t, never) == ratelimit.FromStore })
}

// What was reserved of this process's share is settled there, also when the store is back.
func TestReserveAlone(t *testing.T) {
	ctx := context.Background()
	l := limiter(t, nil, ratelimit.Options{Processes: 1}, policies(10)...)
	res, err := l.Reserve(ctx, "alone", []ratelimit.Request{req("share", "k", 8)})
	if err != nil || !res.Allowed || res.Source != ratelimit.FromPolicy {
		t.Fatal(res, err)
	}
	if err := res.Commit(ctx, 3); err != nil {
		t.Fatal(err)
	}
	if n := left(t, l, "share", "k"); n != 7 {
		t.Errorf("%d left", n)
	}
}

func TestServerKilledAndBack(t *testing.T) {
	server := storetest.Redis(t)
	l := limiter(t, openURL(t, server.URL()), ratelimit.Options{Timeout: 100 * time.Millisecond, Beat: 200 * time.Millisecond}, policies(10)...)
	until(t, "the store decides", func() bool { return source(t, l) == ratelimit.FromStore })
	server.Kill()
	until(t, "the policy decides", func() bool { return source(t, l) == ratelimit.FromPolicy })
	server.Restart()
	until(t, "the store decides again", func() bool { return source(t, l) == ratelimit.FromStore })
}

func TestCloseWhileDeciding(t *testing.T) {
	w := newWorld(t)
	l := limiter(t, w.store, patient, policies(10)...)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				_, err := l.Allow(context.Background(), []ratelimit.Request{req("share", "k", 1)})
				if errors.Is(err, ratelimit.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2 {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	other := limiter(t, w.store, patient, policies(10)...)
	if _, err := other.Allow(ctx, []ratelimit.Request{req("share", "k", 1)}); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has left: %v", err)
	}
}

// While the store is gone nobody asks it but one goroutine a process, less and less often.
func TestNoHerd(t *testing.T) {
	proxy := storetest.NewProxy(t, storetest.Redis(t))
	var takes, beats atomic.Int64
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := store.Open(ctx, proxy.URL(), store.Options{Observe: func(name string, _ time.Duration, _ error) {
		switch name {
		case "ratelimit.take":
			takes.Add(1)
		case "ratelimit.beat":
			beats.Add(1)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := limiter(t, s, ratelimit.Options{Timeout: 50 * time.Millisecond}, policies(10)...)
	until(t, "the store decides", func() bool { return l.Live() == 1 && source(t, l) == ratelimit.FromStore })
	proxy.Set(storetest.Weather{DropUp: true, DropDown: true})
	until(t, "the circuit opens", func() bool {
		before := takes.Load()
		return source(t, l) == ratelimit.FromPolicy && takes.Load() == before
	})
	asked, beaten := takes.Load(), beats.Load()
	began := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for time.Since(began) < time.Second {
				if d, err := l.Allow(context.Background(), []ratelimit.Request{req("share", "herd", 1)}); err != nil || d.Source != ratelimit.FromPolicy {
					t.Errorf("%+v, %v", d, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := takes.Load() - asked; n > 0 {
		t.Errorf("%d calls asked a store that is gone", n)
	}
	if n := beats.Load() - beaten; n > 12 { // pauses of 50 ms at least, then 100, 200, …
		t.Errorf("it was asked %d times in %s whether it is back", n, time.Since(began))
	}
	proxy.Set(storetest.Weather{})
	proxy.Cut()
	until(t, "the store decides again", func() bool { return source(t, l) == ratelimit.FromStore })
}
