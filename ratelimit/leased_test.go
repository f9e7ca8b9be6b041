package ratelimit_test

import (
	"bufio"
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// leasable are the algorithms that can be leased, with a budget that nobody uses up by time.
func leasable(n int64) []ratelimit.Rule {
	var rules []ratelimit.Rule
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.FixedWindow, ratelimit.SlidingCounter} {
		rules = append(rules, ratelimit.Rule{Name: "leased-" + string(a), Algorithm: a, Quota: ratelimit.Quota{Limit: n, Window: 24 * time.Hour}, Leased: 10})
	}
	return rules
}

// Three processes with many callers admit together what there is, most of it without the store; and what they hold when
// they end is there for others.
func leasedShares(t *testing.T, s *store.Store) {
	for _, r := range leasable(2000) {
		var all []*ratelimit.Limiter
		for range 3 {
			all = append(all, limiter(t, s, patient, r))
		}
		var admitted, leased atomic.Int64
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				for range 250 {
					d, err := all[i%3].Allow(context.Background(), []ratelimit.Request{req(r.Name, "shares", 1)})
					if err != nil || !d.Allowed {
						t.Errorf("%s: %+v, %v", r.Name, d, err)
						return
					}
					admitted.Add(1)
					if d.Source == ratelimit.FromLease {
						leased.Add(1)
					}
				}
			})
		}
		wg.Wait()
		for _, l := range all {
			if err := l.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}
		last := limiter(t, s, patient, r)
		if n, want := left(t, last, r.Name, "shares"), 2000-admitted.Load(); n != want {
			t.Errorf("%s: %d left of 2000 after %d, of which %d by leases", r.Name, n, admitted.Load(), leased.Load())
		}
	}
}

func leasedWithOthers(t *testing.T, s *store.Store) {
	rules := leasable(2000)
	tight := ratelimit.Rule{Name: "tight", Quota: ratelimit.Quota{Limit: 1, Window: 24 * time.Hour}}
	l := limiter(t, s, patient, append(rules, tight)...)
	allow(t, l, req("tight", "others", 1))
	used := map[string]int64{}
	var reqs []ratelimit.Request
	for _, r := range rules {
		until(t, r.Name+" is leased", func() bool {
			d := allow(t, l, req(r.Name, "others", 5)) // a few of them make it hot, also on a slow engine
			used[r.Name] += 5
			return d.Allowed && d.Source == ratelimit.FromLease || used[r.Name] > 1900
		})
		reqs = append(reqs, req(r.Name, "others", 2))
	}
	if d := allow(t, l, reqs...); !d.Allowed {
		t.Errorf("%+v", d)
	}
	for range 20 {
		d := allow(t, l, append(reqs, req("tight", "others", 1))...)
		if names := d.Refused(); d.Allowed || len(names) != 1 || names[0] != "tight" {
			t.Fatalf("%+v", d)
		}
	}
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	last := limiter(t, s, patient, rules...)
	for _, r := range rules {
		if n, want := left(t, last, r.Name, "others"), 2000-used[r.Name]-2; n != want {
			t.Errorf("%s: %d left, not %d", r.Name, n, want)
		}
	}
}

// What is held is used up while the store is gone, and after that the rule's policy decides.
func TestLeasedStoreGone(t *testing.T) {
	s, proxy := farAway(t)
	r := ratelimit.Rule{Name: "r", Algorithm: ratelimit.FixedWindow, Quota: ratelimit.Quota{Limit: 100_000, Window: 24 * time.Hour}, Leased: 10, OnError: ratelimit.Closed}
	l := limiter(t, s, ratelimit.Options{Timeout: 250 * time.Millisecond, Beat: time.Second}, r)
	until(t, "it is leased", func() bool { return allow(t, l, req("r", "k", 1)).Source == ratelimit.FromLease })
	proxy.Set(storetest.Weather{DropUp: true, DropDown: true})
	began, byLease := time.Now(), 0
	until(t, "the policy decides", func() bool {
		d := allow(t, l, req("r", "k", 1))
		if d.Source == ratelimit.FromLease && d.Allowed {
			byLease++
		}
		return d.Source == ratelimit.FromPolicy && !d.Allowed
	})
	if byLease == 0 || byLease > 10_000 {
		t.Errorf("%d came in by the lease, in %s", byLease, time.Since(began))
	}
}

// An idle process gives back what it holds.
func TestLeasedIdle(t *testing.T) {
	s := openURL(t, storetest.Redis(t).URL())
	r := leasable(2000)[1]
	a, b := limiter(t, s, patient, r), limiter(t, s, patient, r)
	until(t, "it is leased", func() bool { return allow(t, a, req(r.Name, "idle", 1)).Source == ratelimit.FromLease })
	before := left(t, b, r.Name, "idle")
	until(t, "it is given back", func() bool { return left(t, b, r.Name, "idle") > before })
}

func TestLeasedRefusedRules(t *testing.T) {
	q := ratelimit.Quota{Limit: 1000, Window: time.Second}
	for name, r := range map[string]ratelimit.Rule{
		"log":     {Algorithm: ratelimit.SlidingLog, Quota: q, Leased: 100},
		"leaky":   {Algorithm: ratelimit.LeakyBucket, Quota: q, Leased: 100},
		"slots":   {Algorithm: ratelimit.Concurrency, Quota: ratelimit.Quota{Limit: 1000}, Leased: 100},
		"parts":   {Quota: q, Leased: 1},
		"many":    {Quota: q, Leased: 1001},
		"few":     {Quota: ratelimit.Quota{Limit: 399, Window: time.Second}, Leased: 100},
		"short":   {Quota: ratelimit.Quota{Limit: 1000, Window: 50 * time.Millisecond}, Leased: 100},
		"blocked": {Blocked: true, Leased: 100},
	} {
		r.Name = name
		if _, err := ratelimit.NewRules(r); field(err) != "Leased" {
			t.Errorf("%s: %v", name, err)
		}
	}
	const file = "domain: d\ndescriptors:\n  - key: a\n    rate_limit: {unit: minute, requests_per_unit: 1000, leased: 100%s}\n"
	for more, ok := range map[string]bool{"": true, ", algorithm: token-bucket": true, ", algorithm: sliding-log": false} {
		_, err := ratelimit.ParseRules(ratelimit.File{Name: "f", Text: fmt.Appendf(nil, file, more)})
		if (err == nil) != ok {
			t.Errorf("%q: %v", more, err)
		}
	}
}

// A decision by a lease.
func BenchmarkLeased(b *testing.B) {
	s, err := openMem()
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	set, err := ratelimit.NewRules(ratelimit.Rule{Name: "r", Algorithm: ratelimit.FixedWindow, Quota: ratelimit.Quota{Limit: 1_000_000_000, Window: time.Hour}, Leased: 100})
	if err != nil {
		b.Fatal(err)
	}
	l, err := ratelimit.New(s, set, patient)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close(context.Background()) }()
	reqs := []ratelimit.Request{req("r", "hot", 1)}
	b.ReportAllocs()
	for b.Loop() {
		if d, err := l.Allow(context.Background(), reqs); err != nil || !d.Allowed {
			b.Fatal(d, err)
		}
	}
}

// The processes of TestLeasedProcesses: the test's binary with the store's URL in this variable.
const (
	childEnv      = "HOLDFAST_TEST_LEASING"
	secondsEnv    = "HOLDFAST_TEST_LEASING_SECONDS" // how long; by default 4
	processLimit  = 20_000                          // a second
	processes     = 10
	reportedEvery = 20 * time.Millisecond
)

// leasingChild decides on one hot key as fast as it can, at uneven times, and tells what it admitted by its own clock: for
// each report the window, units of which both moments around the decision were in it, and others.
func leasingChild(url string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	ctx := context.Background()
	s, err := store.Open(ctx, url, store.Options{})
	if err != nil {
		fail(err)
	}
	rules, err := ratelimit.NewRules(ratelimit.Rule{Name: "hot", Algorithm: ratelimit.FixedWindow, Quota: ratelimit.Quota{Limit: processLimit, Window: time.Second}, Leased: 100})
	if err != nil {
		fail(err)
	}
	l, err := ratelimit.New(s, rules, patient)
	if err != nil {
		fail(err)
	}
	fmt.Println("ready")
	var from, to, me int64
	if _, err := fmt.Scan(&from, &to, &me); err != nil {
		fail(err)
	}
	time.Sleep(time.Until(time.UnixMilli(from))) // all begin together
	reqs := []ratelimit.Request{req("hot", "key", 1)}
	var window, sure, others, decided, w0, inLast int64
	reported := time.Now()
	report := func() {
		fmt.Printf("%d %d %d %d\n", window, sure, others, decided)
		sure, others, decided = 0, 0, 0
	}
	for before := time.Now(); before.UnixMilli() < to; {
		if h := fnv.New32a(); before.UnixMilli()%100 < 2 { // in each tenth of a second some processes have nothing to do
			_, _ = fmt.Fprint(h, before.UnixMilli()/100, me)
			if h.Sum32()%4 == 0 {
				time.Sleep(98 * time.Millisecond)
				before = time.Now()
			}
		}
		d, err := l.Allow(ctx, reqs)
		after := time.Now()
		if err != nil {
			fail(err)
		}
		if w := before.Unix(); w != window {
			report()
			window = w
		}
		if decided++; d.Allowed {
			if inLast++; w0 != before.Unix() {
				w0, inLast = before.Unix(), 0
			}
			if me == 0 && before.UnixMilli() > (from+to)/2 && inLast == 50 && d.Source == ratelimit.FromLease {
				report()
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // in the middle of a lease
			}
			if after.Unix() == before.Unix() {
				sure++
			} else {
				others++
			}
		}
		if after.Sub(reported) > reportedEvery {
			report()
			reported = after
		}
		before = after
	}
	report()
	if err := l.Close(ctx); err != nil {
		fail(err)
	}
	_ = s.Close()
}

// Ten processes and one hot key on one server, one process killed while it holds a lease: from their own timestamps
// not more than 1% too much is admitted in any window, and at least 98% of all windows' limits.
func TestLeasedProcesses(t *testing.T) {
	seconds := int64(4)
	if v := os.Getenv(secondsEnv); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 2 {
			t.Fatalf("%s is %q", secondsEnv, v)
		}
		seconds = n
	}
	server := storetest.Redis(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	sure, others, wanted := map[int64]int64{}, map[int64]int64{}, map[int64]int64{}
	var cmds []*exec.Cmd
	var outs []*bufio.Scanner
	var starts []func(string)
	for range processes {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childEnv+"="+server.URL())
		cmd.Stderr = os.Stderr
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		cmds, outs = append(cmds, cmd), append(outs, bufio.NewScanner(out))
		starts = append(starts, func(line string) { _, _ = fmt.Fprintln(in, line) })
	}
	for _, out := range outs {
		if !out.Scan() || out.Text() != "ready" {
			t.Fatalf("a process did not begin: %q, %v", out.Text(), out.Err())
		}
	}
	from := time.Now().Unix() + 2
	to := from + seconds
	for i, start := range starts {
		start(fmt.Sprint(from*1000, to*1000, i))
	}
	for _, out := range outs {
		wg.Go(func() {
			for out.Scan() {
				var w, s, o, d int64
				if n, _ := fmt.Sscan(out.Text(), &w, &s, &o, &d); n < 4 {
					continue // cut off by the kill
				}
				mu.Lock()
				sure[w] += s
				others[w] += o
				wanted[w] += d
				mu.Unlock()
			}
		})
	}
	time.Sleep(time.Until(time.Unix(from, 0)))
	before := commands(t, server)
	time.Sleep(time.Until(time.Unix(to, 0)))
	asked := (commands(t, server) - before) / seconds
	wg.Wait()
	for i, cmd := range cmds {
		if err := cmd.Wait(); (err == nil) != (i > 0) {
			t.Errorf("process %d: %v; only the first was to be killed", i, err)
		}
	}
	var total, limit, decided int64
	for w := from; w < to; w++ {
		if decided += wanted[w]; wanted[w] >= 2*processLimit { // otherwise the machine has other things to do
			total += sure[w] + others[w]
			limit += processLimit
		}
		if sure[w] > processLimit*101/100 {
			t.Errorf("%d came in within one window of %d", sure[w], processLimit)
		}
	}
	if limit == 0 {
		t.Skipf("the machine is too busy for ten processes: %v", wanted)
	}
	share := 100 * float64(total) / float64(limit)
	t.Logf("%d decisions/s by %d processes, %.2f%% of the limit admitted in %d of %d windows, %d engine commands/s from outside; by window %v", decided/seconds, processes, share, limit/processLimit, seconds, asked, sure)
	if share < 98 {
		t.Errorf("only %.2f%% of the limit was admitted: %v, %v of %v", share, sure, others, wanted)
	}
	if share > 101 || asked > 1000 {
		t.Errorf("%.2f%% of the limit was admitted with %d commands/s", share, asked)
	}
}

// commands is how many commands the server got from clients: not those that scripts call.
func commands(t *testing.T, server *storetest.Server) (n int64) {
	t.Helper()
	for line := range strings.SplitSeq(server.Admin(t, "INFO commandstats"), "\n") {
		name, rest, _ := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		switch calls, _, _ := strings.Cut(rest, ","); name {
		case "get", "set", "del", "time", "zadd", "zrem", "zremrangebyscore", "zcard", "pexpireat": // called by scripts
		default:
			c, _ := strconv.ParseInt(calls, 10, 64)
			n += c
		}
	}
	return n
}
