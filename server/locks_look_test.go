package server_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/server"
)

// Who holds what, since when, and who waits; and nobody is told what ends others' leases.
func TestLocksAreSeen(t *testing.T) {
	eachLocks(t, func(t *testing.T, r *rig) {
		before := time.Now().Add(-time.Minute)
		a := r.acquire("seen/a", `{"who":"worker 7","ttl_ms":20000,"max_hold_ms":60000}`)
		r.acquire("seen/b", `{"permits":2,"of":5}`)
		r.acquire("seen/c", `{"shared":true}`)
		r.acquire("seen/c", `{"shared":true}`)
		waiter := r.later(t.Context(), "seen/c", `{"wait_ms":20000,"who":"writer"}`)
		r.untilWaiting("seen/c", 1)
		s := r.lockState("seen/a")
		if len(s.Holders) != 1 || s.Waiting != 0 || s.Lock != "seen/a" {
			t.Fatalf("%+v", s)
		}
		h := s.Holders[0]
		if h.Token != a.Token || h.Who != "worker 7" || h.Caller != "local" || h.Mode != "exclusive" || h.Permits != 0 || h.HeldFor < 0 ||
			h.Since.Before(before) || h.Expires.Sub(h.Since) < 20*time.Second || h.Ends.Sub(h.Since) != time.Minute {
			t.Errorf("%+v", h)
		}
		if h := r.lockState("seen/b").Holders[0]; h.Mode != "semaphore" || h.Permits != 2 || h.Of != 5 || h.Who != "local" {
			t.Errorf("%+v", h)
		}
		var list server.LockList
		body := string(r.want(200, "GET", "/v1/locks", "", &list).body)
		if len(list.Locks) != 3 || list.More || list.Locks[2].Lock != "seen/c" || len(list.Locks[2].Holders) != 2 ||
			list.Locks[2].Line[0].Who != "writer" || !list.Locks[2].Line[0].Alive {
			t.Errorf("%+v", list)
		}
		if _, secret, _ := strings.Cut(a.Lease, "-"); strings.Contains(body, secret) {
			t.Error("the list tells what ends a lease")
		}
		r.want(200, "GET", "/v1/locks?limit=2", "", &list)
		if len(list.Locks) != 2 || !list.More {
			t.Errorf("the first two: %+v", list)
		}
		if s := r.lockState("nobody's"); len(s.Holders) != 0 {
			t.Errorf("%+v", s)
		}
		r.untilSample("holdfast_locks_held", "3")
		for series, want := range map[string]string{"holdfast_lock_holders": "4", "holdfast_lock_waiters": "1"} {
			if got, _ := r.sample(series); got != want {
				t.Errorf("%s: %q", series, got)
			}
		}
		// seen/a is held for longer, but nobody waits for it.
		if oldest, blocking := r.number("holdfast_lock_oldest_hold_seconds"), r.number("holdfast_lock_oldest_blocking_hold_seconds"); blocking <= 0 || blocking >= oldest {
			t.Errorf("the oldest lease is %v s old, the oldest that somebody waits for %v s", oldest, blocking)
		}
		var broken server.Broken
		r.want(200, "POST", "/v1/locks/seen%2Fc/breaks", `{"reason":"in the way"}`, &broken)
		if len(broken.Tokens) != 2 {
			t.Errorf("broken: %+v", broken)
		}
		if got := <-waiter; got.status != 201 {
			t.Errorf("the writer: %s", got)
		}
	})
}

// Breaking is for operators, of one lease or all, with a reason that is logged; the holder is told.
func TestLockBreak(t *testing.T) {
	ada, k1, err := server.NewKey("ada")
	if err != nil {
		t.Fatal(err)
	}
	root, k2, err := server.NewKey("root")
	if err != nil {
		t.Fatal(err)
	}
	k2.Operator = true
	var log lockedBuffer
	r := newRig(t, func(c *server.Config) {
		c.Keys = []server.Key{k1, k2}
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	r.key = ada
	one, two := r.acquire("b", `{"shared":true}`), r.acquire("b", `{"shared":true}`)
	r.refused(403, "not-an-operator", "POST", "/v1/locks/b/breaks", `{"reason":"mine"}`)
	r.key = root
	r.refused(409, "lease-lost", "PUT", leases("b")+"/"+one.Lease, `{"ttl_ms":1000}`) // with another's key
	r.refused(409, "lease-lost", "DELETE", leases("b")+"/"+one.Lease, ``)
	if h := r.lockState("b").Holders; len(h) != 2 || h[0].Caller != "ada" {
		t.Errorf("%+v", h)
	}
	var broken server.Broken
	r.want(200, "POST", "/v1/locks/b/breaks", `{"reason":"the disk is full","token":`+jsonNumber(one.Token)+`}`, &broken)
	if len(broken.Tokens) != 1 || broken.Tokens[0] != one.Token {
		t.Errorf("%+v", broken)
	}
	if text := log.String(); !strings.Contains(text, "the disk is full") || !strings.Contains(text, "caller=root") {
		t.Errorf("the log: %s", text)
	}
	r.key = ada
	r.refused(409, "lease-lost", "PUT", leases("b")+"/"+one.Lease, `{"ttl_ms":1000}`)
	r.want(200, "PUT", leases("b")+"/"+two.Lease, `{"ttl_ms":1000}`, nil)
}

func jsonNumber(n int64) string { return slog.Int64Value(n).String() }

// lockedBuffer is written to by a server while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestSeveralLocks(t *testing.T) {
	eachLocks(t, func(t *testing.T, r *rig) {
		var got struct{ Leases []server.Lease }
		r.want(201, "POST", "/v1/leases", `{"names":["s/b","s/a"],"ttl_ms":60000}`, &got)
		if len(got.Leases) != 2 || got.Leases[0].Lock != "s/b" || got.Leases[1].Lock != "s/a" {
			t.Fatalf("%+v", got)
		}
		r.refused(409, "lock-held", "POST", "/v1/leases", `{"names":["s/0","s/a"]}`)
		r.refused(409, "lock-held", "POST", "/v1/leases", `{"names":["s/0","s/a"],"wait_ms":20}`)
		if h := r.lockState("s/0").Holders; len(h) != 0 {
			t.Errorf("half of it is held: %+v", h)
		}
		for _, l := range got.Leases {
			r.want(200, "PUT", leases(l.Lock)+"/"+l.Lease, `{"ttl_ms":60000}`, nil)
			r.want(204, "DELETE", leases(l.Lock)+"/"+l.Lease, "", nil)
		}
		r.want(201, "POST", "/v1/leases", `{"names":["s/0","s/a"],"wait_ms":20000}`, nil)
	})
}

func TestLocksBadInput(t *testing.T) {
	r := newRig(t)
	long := strings.Repeat("ü", 300) // 600 bytes
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		kind, field              string
	}{
		{"long name", "POST", leases(long), ``, nil, 422, "invalid", "path.name"},
		{"control characters", "POST", leases("a\x01b"), ``, nil, 422, "invalid", "path.name"},
		{"no UTF-8", "POST", "/v1/locks/%ff/leases", ``, nil, 422, "invalid", "path.name"},
		{"long name, look", "GET", "/v1/locks/" + strings.Repeat("x", 513), ``, nil, 422, "invalid", "path.name"},
		{"short life", "POST", leases("a"), `{"ttl_ms":99}`, nil, 422, "invalid", "body.ttl_ms"},
		{"zero life", "PUT", leases("a") + "/1-x", `{"ttl_ms":0}`, nil, 422, "invalid", "body.ttl_ms"},
		{"no life", "PUT", leases("a") + "/1-x", `{}`, nil, 422, "invalid", "body"},
		{"long life", "POST", leases("a"), `{"ttl_ms":3600001}`, nil, 422, "invalid", "body.ttl_ms"},
		{"negative life", "POST", leases("a"), `{"ttl_ms":-5}`, nil, 422, "invalid", "body.ttl_ms"},
		{"hold below life", "POST", leases("a"), `{"ttl_ms":5000,"max_hold_ms":4000}`, nil, 422, "invalid", "body.max_hold_ms"},
		{"long wait", "POST", leases("a"), `{"wait_ms":20001}`, nil, 422, "invalid", "body.wait_ms"},
		{"negative wait", "POST", leases("a"), `{"wait_ms":-1}`, nil, 422, "invalid", "body.wait_ms"},
		{"both modes", "POST", leases("a"), `{"shared":true,"permits":1,"of":2}`, nil, 422, "invalid", "body.shared"},
		{"permits alone", "POST", leases("a"), `{"permits":1}`, nil, 422, "invalid", "body.permits"},
		{"too many permits", "POST", leases("a"), `{"permits":3,"of":2}`, nil, 422, "invalid", "body.permits"},
		{"unprintable who", "POST", leases("a"), `{"who":"a\u0007"}`, nil, 422, "invalid", "body.who"},
		{"place without a key", "POST", leases("a"), `{"keep_place":true}`, nil, 422, "invalid", "body.keep_place"},
		{"malformed key", "POST", leases("a"), ``, []string{"Idempotency-Key", `"abc`}, 400, "malformed", "header.Idempotency-Key"},
		{"unknown field", "POST", leases("a"), `{"ttl":1}`, nil, 422, "invalid", "body.ttl"},
		{"no JSON", "POST", leases("a"), `{`, nil, 400, "malformed", "body"},
		{"no id", "PUT", leases("a") + "/x", `{"ttl_ms":1000}`, nil, 422, "invalid", "path.lease"},
		{"no token", "DELETE", leases("a") + "/0-x", ``, nil, 422, "invalid", "path.lease"},
		{"negative token", "DELETE", leases("a") + "/-1-x", ``, nil, 422, "invalid", "path.lease"},
		{"no secret", "DELETE", leases("a") + "/1-", ``, nil, 422, "invalid", "path.lease"},
		{"nobody's lease", "DELETE", leases("a") + "/1-x", ``, nil, 409, "lease-lost", ""},
		{"no reason", "POST", "/v1/locks/a/breaks", `{}`, nil, 422, "invalid", "body"},
		{"empty reason", "POST", "/v1/locks/a/breaks", `{"reason":""}`, nil, 422, "invalid", "body.reason"},
		{"no names", "POST", "/v1/leases", `{"names":[]}`, nil, 422, "invalid", "body.names"},
		{"a name twice", "POST", "/v1/leases", `{"names":["a","a"]}`, nil, 422, "invalid", "body.names"},
		{"no limit", "GET", "/v1/locks?limit=0", ``, nil, 422, "invalid", "query.limit"},
		{"another method", "DELETE", leases("a"), ``, nil, 405, "method-not-allowed", ""},
	} {
		a := r.do(c.method, c.path, c.body, c.header...)
		kind, fields := a.problem()
		if a.status != c.status || kind != c.kind || !strings.Contains(" "+fields+" ", " "+c.field+" ") && c.field != "" {
			t.Errorf("%s: want %d %s %s, got %s", c.name, c.status, c.kind, c.field, a)
		}
	}
	var list server.LockList
	if r.want(200, "GET", "/v1/locks", "", &list); len(list.Locks) != 0 {
		t.Errorf("something is held: %+v", list)
	}
}

// A store that may forget holds no locks; the rest is served.
func TestWithoutLocks(t *testing.T) {
	r := newRig(t, func(c *server.Config) { c.Locks = nil })
	for _, c := range [][3]string{
		{"POST", leases("a"), ``}, {"PUT", leases("a") + "/1-x", `{"ttl_ms":1000}`}, {"DELETE", leases("a") + "/1-x", ``},
		{"GET", "/v1/locks/a", ``}, {"GET", "/v1/locks", ``}, {"POST", "/v1/locks/a/breaks", `{"reason":"r"}`}, {"POST", "/v1/leases", `{"names":["a"]}`},
	} {
		r.refused(501, "no-locks", c[0], c[1], c[2])
	}
	r.sale("drop", 1)
	r.want(200, "GET", "/metrics", "", nil)
}

// What became of requests is counted.
func TestLocksAreCounted(t *testing.T) {
	r := newRig(t)
	a := r.acquire("n", ``)
	r.refused(409, "lock-held", "POST", leases("n"), ``)
	r.want(204, "DELETE", leases("n")+"/"+a.Lease, "", nil)
	r.refused(409, "lease-lost", "DELETE", leases("n")+"/"+a.Lease, "")
	for series, want := range map[string]string{
		`holdfast_lock_requests_total{op="acquire",outcome="ok"}`: "1", `holdfast_lock_requests_total{op="acquire",outcome="held"}`: "1",
		`holdfast_lock_requests_total{op="release",outcome="ok"}`: "1", `holdfast_lock_requests_total{op="release",outcome="lost"}`: "1",
		`holdfast_lock_requests_total{op="renew",outcome="lost"}`: "0", `holdfast_lock_acquire_seconds_count`: "1",
	} {
		if got, ok := r.sample(series); !ok || got != want {
			t.Errorf("%s: %q", series, got)
		}
	}
}
