package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// A fault's callers write one hash field each time, with a name that is never used again, and
// remember what they were told. Only the data says whether they were told the truth.
type ledger struct {
	mu      sync.Mutex
	told    map[string]error
	runs    int
	longest time.Duration
}

// work calls until ctx is done, several callers at once.
func (l *ledger) work(ctx context.Context, s *store.Store, callers int) {
	l.mu.Lock()
	l.runs++
	run := l.runs
	l.mu.Unlock()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id, began := fmt.Sprintf("%d-%d-%d", run, c, i), time.Now()
				_, err := op.Do(ctx, s, opIn{Key: "{k}", Other: "{k}2", Op: "hset", Args: []string{id, "1"}})
				l.mu.Lock()
				l.told[id] = err
				l.longest = max(l.longest, time.Since(began))
				l.mu.Unlock()
				if err != nil {
					// Not to spin on the fast answers of an engine that is down.
					select {
					case <-ctx.Done():
					case <-time.After(200 * time.Microsecond):
					}
				}
			}
		})
	}
	wg.Wait()
}

// count says how many calls got which answer.
func (l *ledger) count(kind error) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, err := range l.told {
		if err == nil && kind == nil || err != nil && kind != nil && errors.Is(err, kind) {
			n++
		}
	}
	return n
}

// check compares what was told with what is there.
func (l *ledger) check(t *testing.T, s *store.Store) {
	t.Helper()
	there := map[string]bool{}
	for _, field := range must(t, s, "{k}", "hall") {
		id, _, _ := strings.Cut(field, "=")
		there[id] = true
	}
	for id, err := range l.told {
		switch {
		case err == nil && !there[id]:
			t.Errorf("%s was acknowledged and is lost", id)
		case errors.Is(err, store.ErrUnavailable) && there[id]:
			t.Errorf("%s was told that nothing was written, and is there: %v", id, err)
		case err != nil && !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrOutcomeUnknown):
			t.Errorf("%s: %v", id, err)
		}
	}
}

// The engine dies and comes back while callers are busy, again and again. What was acknowledged
// is there, what was told to be unavailable is not, and calls succeed again by themselves.
func TestEngineDiesAndComesBack(t *testing.T) {
	server := storetest.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	s := open(t, server.URL()+"?class=b", store.Options{})
	l := &ledger{told: map[string]error{}}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { l.work(ctx, s, 8) })
	defer wg.Wait()
	defer stop()
	for range 5 {
		before := l.count(nil)
		within(t, 5*time.Second, "calls succeed", func() bool { return l.count(nil) > before+50 })
		down := l.count(store.ErrUnavailable)
		server.Kill()
		within(t, 5*time.Second, "calls are refused", func() bool { return l.count(store.ErrUnavailable) > down+50 })
		server.Restart()
		began, before := time.Now(), l.count(nil)
		within(t, 3*time.Second, "calls succeed again", func() bool { return l.count(nil) > before })
		t.Logf("back %s after the engine", time.Since(began).Round(time.Millisecond))
	}
	stop()
	wg.Wait()
	l.check(t, s)
	t.Logf("%d acknowledged, %d unavailable, %d unknown", l.count(nil), l.count(store.ErrUnavailable), l.count(store.ErrOutcomeUnknown))
	if n := l.count(store.ErrOutcomeUnknown); n > (5+1)*8 { // kills, and the end of the test
		t.Errorf("%d outcomes unknown: more than could be on their way", n)
	}
}

// Connections are cut while the engine is well: by an operator, a proxy, a network.
func TestConnectionCut(t *testing.T) {
	server := storetest.Redis(t)
	s := open(t, server.URL(), store.Options{})
	l := &ledger{told: map[string]error{}}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { l.work(ctx, s, 4) })
	defer wg.Wait()
	defer stop()
	for range 20 {
		before := l.count(nil)
		within(t, 5*time.Second, "calls succeed", func() bool { return l.count(nil) > before+20 })
		server.Admin(t, "CLIENT KILL TYPE normal SKIPME yes")
	}
	stop()
	wg.Wait()
	l.check(t, s)
	t.Logf("%d acknowledged, %d unavailable, %d unknown", l.count(nil), l.count(store.ErrUnavailable), l.count(store.ErrOutcomeUnknown))
	if l.count(nil) < 400 {
		t.Errorf("only %d calls succeeded", l.count(nil))
	}
}

// An engine that reads its data from disk answers, but not with decisions.
func TestEngineIsLoading(t *testing.T) {
	server := storetest.Redis(t, "--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
	s := open(t, server.URL(), store.Options{})
	must(t, s, "{k}", "incr", "1")
	server.Admin(t, "EVAL \"for i = 1, 500 do redis.call('SET', 'pad' .. i, string.rep('x', 100)) end\" 0")
	server.Admin(t, "SAVE")
	server.Kill()
	within(t, 5*time.Second, "it is known to be down", func() bool { return s.Ping(t.Context()) != nil })
	back := make(chan struct{})
	go func() { defer close(back); server.Restart() }()
	defer func() { <-back }()
	within(t, 5*time.Second, "it is loading", func() bool {
		_, err := do(t, s, "{k}", "incr", "1")
		if err == nil || !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
		return strings.Contains(err.Error(), "reading its data")
	})
	within(t, 10*time.Second, "it has loaded", func() bool { return s.Ping(t.Context()) == nil })
	if got := must(t, s, "{k}", "incr", "1"); got[0] != "2" {
		t.Errorf("a refused call was made: %s", got)
	}
}

// A server that takes connections and never answers holds nobody longer than Timeout, however
// many call and however short their own patience is; when it wakes up, all is well.
func TestEngineStopsAnswering(t *testing.T) {
	const timeout = 300 * time.Millisecond
	server := storetest.Redis(t)
	s := open(t, server.URL(), store.Options{Timeout: timeout})
	l := &ledger{told: map[string]error{}}
	must(t, s, "{k}", "hset", "before", "1")
	freeze(t, server)

	longest := crowd(t, s, l, "a", 1500, func(int) time.Duration { return time.Minute })
	if longest > 3*timeout {
		t.Errorf("a caller waited %s; Timeout is %s", longest, timeout)
	}
	impatient := crowd(t, s, l, "b", 1500, func(i int) time.Duration { return time.Duration(i%20+1) * time.Millisecond })
	if impatient > timeout {
		t.Errorf("a caller with 20ms waited %s", impatient)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	pinging := time.Now() // it ends with its own deadline, or before when the engine is known to be down
	err := s.Ping(short)
	if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrOutcomeUnknown) || time.Since(pinging) > timeout {
		t.Errorf("ping: %v after %s", err, time.Since(pinging))
	}
	if _, err := s.Subscribe(short, "c", func(string) {}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("subscribe: %v", err)
	}

	within(t, 4*timeout, "it is known to be down", func() bool {
		began := time.Now()
		return errors.Is(s.Ping(t.Context()), store.ErrUnavailable) && time.Since(began) < 20*time.Millisecond
	})
	if n := l.count(store.ErrOutcomeUnknown); n == 0 || n > 512 {
		t.Errorf("%d outcomes unknown; what was on its way is, and no more", n)
	}
	opening := time.Now()
	_, err = store.Open(t.Context(), server.URL(), store.Options{Timeout: timeout})
	if !errors.Is(err, store.ErrUnavailable) || time.Since(opening) > 4*timeout {
		t.Errorf("open: %v after %s", err, time.Since(opening))
	}

	thaw(t, server)
	within(t, 3*time.Second, "it decides again", func() bool {
		_, err := do(t, s, "{k}", "type")
		return err == nil
	})
	l.check(t, s)
}

// crowd has n callers call once each, at the same time, and returns the longest wait.
func crowd(t *testing.T, s *store.Store, l *ledger, name string, n int, patience func(i int) time.Duration) time.Duration {
	t.Helper()
	var wg sync.WaitGroup
	var longest time.Duration
	for i := range n {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience(i))
			defer cancel()
			id, began := fmt.Sprintf("%s%d", name, i), time.Now()
			_, err := op.Do(ctx, s, opIn{Key: "{k}", Other: "{k}2", Op: "hset", Args: []string{id, "1"}})
			waited := time.Since(began)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.told[id], longest = err, max(longest, waited)
		})
	}
	wg.Wait()
	return longest
}

func freeze(t *testing.T, server *storetest.Server) {
	t.Helper()
	if err := syscall.Kill(server.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { thaw(t, server) })
}

func thaw(t *testing.T, server *storetest.Server) {
	if pid := server.Pid(); pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGCONT) // it may have ended
	}
}

// A network swallows everything, and the connections of that time stay dead when it is well
// again. The client has to give them up by itself, the one for subscriptions too.
func TestNetworkSwallows(t *testing.T) {
	network := storetest.NewProxy(t, storetest.Redis(t))
	s := open(t, network.URL(), store.Options{Timeout: 300 * time.Millisecond})
	heard := make(chan string, 1000)
	cancel, err := s.Subscribe(t.Context(), "news", func(p string) { heard <- p })
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	l := &ledger{told: map[string]error{}}
	network.Set(storetest.Weather{DropUp: true, DropDown: true})
	longest := crowd(t, s, l, "a", 50, func(int) time.Duration { return time.Minute })
	if longest > time.Second {
		t.Errorf("a caller waited %s", longest)
	}
	network.Set(storetest.Weather{})
	began := time.Now()
	within(t, 5*time.Second, "it decides again", func() bool {
		_, err := do(t, s, "{k}", "type")
		return err == nil
	})
	t.Logf("decides %s after the network", time.Since(began).Round(time.Millisecond))
	within(t, 10*time.Second, "it hears again", func() bool {
		_, err := do(t, s, "{k}", "notify", "x")
		return err == nil && len(heard) > 0
	})
	t.Logf("hears %s after the network", time.Since(began).Round(time.Millisecond))
	l.check(t, s)
}

// A random night: the network swallows, in one direction or both, delays and cuts; the engine dies,
// and stands still; its clock jumps by up to two days. All callers are told the truth in bounded time, and afterwards all is well by
// itself. STORE_SEED replays a night.
func TestNight(t *testing.T) {
	const timeout = 300 * time.Millisecond
	server, clock := storetest.Jumpy(t, "--appendonly", "yes", "--appendfsync", "always")
	network := storetest.NewProxy(t, server)
	s := open(t, network.URL()+"?class=b", store.Options{Timeout: timeout})
	faults := map[string]func(){
		"swallows":          func() { network.Set(storetest.Weather{DropUp: true, DropDown: true}) },
		"swallows requests": func() { network.Set(storetest.Weather{DropUp: true}) },
		"swallows answers":  func() { network.Set(storetest.Weather{DropDown: true}) },
		"is slow":           func() { network.Set(storetest.Weather{Delay: 40 * time.Millisecond}) },
		"cuts":              network.Cut,
		"engine dies":       server.Kill,
		"engine stands":     func() { _ = syscall.Kill(server.Pid(), syscall.SIGSTOP) },
	}
	well := func() {
		network.Set(storetest.Weather{})
		if server.Pid() == 0 {
			server.Restart()
		}
		_ = syscall.Kill(server.Pid(), syscall.SIGCONT)
	}
	t.Cleanup(well) // a server that stands still would not end
	seed := rand.Uint64()
	if text := os.Getenv("STORE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("STORE_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	if clock != nil {
		faults["clock jumps"] = func() { clock.By(time.Duration(rng.Int64N(int64(96*time.Hour))) - 48*time.Hour) }
	}
	deck := slices.Concat(slices.Sorted(maps.Keys(faults)), slices.Sorted(maps.Keys(faults)))
	rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	l := &ledger{told: map[string]error{}}
	for _, name := range deck {
		before := l.count(nil)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { l.work(ctx, s, 6) })
		within(t, 5*time.Second, "calls succeed", func() bool { return l.count(nil) > before+20 })
		faults[name]()
		time.Sleep(time.Duration(rng.Int64N(int64(2 * timeout)))) // how long a fault lasts is dealt
		well()
		began, before := time.Now(), l.count(nil)
		within(t, 5*time.Second, "calls succeed again after "+name, func() bool { return l.count(nil) > before+20 })
		t.Logf("%-18s well after %s", name, time.Since(began).Round(time.Millisecond))
		stop()
		wg.Wait()
	}
	l.check(t, s)
	t.Logf("%d acknowledged, %d unavailable, %d unknown; longest call %s",
		l.count(nil), l.count(store.ErrUnavailable), l.count(store.ErrOutcomeUnknown), l.longest)
	if l.count(store.ErrUnavailable) == 0 || l.count(store.ErrOutcomeUnknown) == 0 {
		t.Error("the night had no faults")
	}
	if l.longest > timeout+500*time.Millisecond {
		t.Errorf("a call took %s with a timeout of %s", l.longest, timeout)
	}
}

// Subscriptions survive the death of the engine and the cut of their connection, and a listener
// that cancels meanwhile stays cancelled.
func TestSubscriptionsComeBack(t *testing.T) {
	server := storetest.Redis(t)
	s := open(t, server.URL()+"?prefix=p:", store.Options{})
	heard, gone := make(chan string, 10_000), make(chan string, 10_000)
	for _, channel := range []string{"news", "news", "more"} {
		cancel, err := s.Subscribe(t.Context(), channel, func(p string) { heard <- channel + " " + p })
		if err != nil {
			t.Fatal(err)
		}
		defer cancel()
	}
	cancel, err := s.Subscribe(t.Context(), "gone", func(p string) { gone <- p })
	if err != nil {
		t.Fatal(err)
	}
	for i, fault := range []func(){
		func() { server.Admin(t, "CLIENT KILL TYPE pubsub") },
		func() { server.Kill(); cancel(); server.Restart() },
		func() { server.Restart() },
	} {
		fault()
		within(t, 5*time.Second, "subscribed again", func() bool {
			return server.Admin(t, "PUBSUB NUMSUB p:news p:more") == "[p:news 1 p:more 1]"
		})
		for len(heard) > 0 {
			<-heard
		}
		payload := fmt.Sprint(i)
		_, err := op.Do(t.Context(), s, opIn{Key: "{k}", Other: "{k}", Op: "notify", Channel: "news", Args: []string{payload}})
		for end := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(end); {
			_, err = op.Do(t.Context(), s, opIn{Key: "{k}", Other: "{k}", Op: "notify", Channel: "news", Args: []string{payload}})
		}
		for range 2 {
			if got := receive(t, heard); got != "news "+payload {
				t.Errorf("after fault %d: heard %q", i, got)
			}
		}
	}
	if n := server.Admin(t, "PUBSUB NUMSUB p:gone"); n != "[p:gone 0]" {
		t.Errorf("a cancelled channel is subscribed to: %s", n)
	}
	if len(gone) > 0 {
		t.Errorf("a cancelled listener heard %q", <-gone)
	}
}
