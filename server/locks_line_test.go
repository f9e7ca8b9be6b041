package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

func (r *rig) lockState(name string) (s server.LockState) {
	r.Helper()
	r.want(200, "GET", strings.TrimSuffix(leases(name), "/leases"), "", &s)
	return s
}

// untilWaiting polls until so many stand in line.
func (r *rig) untilWaiting(name string, n int64) {
	r.Helper()
	r.until(fmt.Sprintf("%d wait for %s", n, name), func() bool { return r.lockState(name).Waiting == n })
}

// later acquires in the background.
func (r *rig) later(ctx context.Context, name, wish string, header ...string) <-chan answer {
	r.Helper()
	req := r.request("POST", leases(name), wish, header...).WithContext(ctx)
	done := make(chan answer, 1)
	go func() {
		defer close(done)
		if resp, err := r.web.Client().Do(req); err == nil {
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			done <- answer{resp.StatusCode, resp.Header, body}
		}
	}()
	return done
}

// Who waits is served in order, each as soon as the one before has released.
func TestLockLine(t *testing.T) {
	eachLocks(t, func(t *testing.T, r *rig) {
		first := r.acquire("line", ``)
		b := r.later(t.Context(), "line", `{"wait_ms":20000,"who":"b"}`)
		r.untilWaiting("line", 1)
		c := r.later(t.Context(), "line", `{"wait_ms":20000,"who":"c"}`)
		r.untilWaiting("line", 2)
		if l := r.lockState("line").Line; l[0].Who != "b" || l[1].Who != "c" {
			t.Errorf("the line: %+v", l)
		}
		last := first
		for who, next := range []<-chan answer{b, c} {
			r.want(204, "DELETE", leases("line")+"/"+last.Lease, "", nil)
			a := <-next
			var l server.Lease
			if err := json.Unmarshal(a.body, &l); err != nil || a.status != 201 || l.Token <= last.Token {
				t.Fatalf("waiter %d: %s after token %d", who, a, last.Token)
			}
			last = l
		}
	})
}

// A wait in several requests with one key is one wait.
func TestLockKeepPlace(t *testing.T) {
	eachLocks(t, func(t *testing.T, r *rig) {
		const key, wish = "Idempotency-Key", `{"wait_ms":20,"keep_place":true,"who":"patient"}`
		first := r.acquire("keep", ``)
		r.refused(409, "lock-held", "POST", leases("keep"), wish, key, "k")
		other := r.later(t.Context(), "keep", `{"wait_ms":20000,"who":"other"}`)
		r.untilWaiting("keep", 2)
		r.refused(409, "lock-held", "POST", leases("keep"), wish, key, "k")
		if l := r.lockState("keep").Line; len(l) != 2 || l[0].Who != "patient" {
			t.Errorf("the line: %+v", l)
		}
		r.want(204, "DELETE", leases("keep")+"/"+first.Lease, "", nil)
		got := r.acquire("keep", wish, key, "k")
		r.want(204, "DELETE", leases("keep")+"/"+got.Lease, "", nil)
		if a := <-other; a.status != 201 {
			t.Errorf("the other: %s", a)
		}
	})
}

// A client that goes away while it waits is not served.
func TestLockWaiterGoesAway(t *testing.T) {
	eachLocks(t, func(t *testing.T, r *rig) {
		first := r.acquire("away", ``)
		for _, header := range [][]string{nil, {"Idempotency-Key", "k"}, {"Idempotency-Key", "k2"}} {
			ctx, leave := context.WithCancel(t.Context())
			done := r.later(ctx, "away", `{"wait_ms":20000,"keep_place":`+fmt.Sprint(header != nil)+`}`, header...)
			r.untilWaiting("away", 1)
			leave()
			<-done
			r.untilWaiting("away", 0)
		}
		r.want(204, "DELETE", leases("away")+"/"+first.Lease, "", nil)
		r.acquire("away", ``)
	})
}

// Those who wait take nobody else's place, and there is a limit to them too.
func TestLockWaitersAreBounded(t *testing.T) {
	r := newRig(t, func(c *server.Config) { c.MaxInFlight = 1 })
	first := r.acquire("bound", ``)
	waiter := r.later(t.Context(), "bound", `{"wait_ms":20000}`)
	r.untilWaiting("bound", 1)
	if a := r.do("POST", leases("other"), ``); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("beyond the limit: %s", a)
	}
	if got, _ := r.sample("holdfast_lock_requests_in_flight"); got != "1" {
		t.Errorf("in flight: %s", got)
	}
	r.want(204, "DELETE", leases("bound")+"/"+first.Lease, "", nil)
	if a := <-waiter; a.status != 201 {
		t.Errorf("the waiter: %s", a)
	}
}

// serving lets the rig speak to a server as `holdfast serve` runs it, with the limits of its connections.
func (r *rig) serving() (stop func() error) {
	r.Helper()
	l, err := server.Listen("127.0.0.1:0", nil)
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.Context())
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ctx, l, 20*time.Second) }()
	r.web.URL = "http://" + l.Addr().String()
	r.web.Client().Transport = &http.Transport{}
	r.Cleanup(r.web.Client().CloseIdleConnections)
	return func() error { cancel(); return <-served }
}

// A wait outlasts the limits of a connection that are for requests which are short.
func TestLockWaitIsLong(t *testing.T) {
	r := newRig(t)
	stop := r.serving()
	first := r.acquire("long", `{"ttl_ms":60000}`)
	waiter := r.later(t.Context(), "long", `{"wait_ms":20000}`)
	r.untilWaiting("long", 1)
	select {
	case a := <-waiter:
		t.Fatalf("the wait ended: %s", a)
	case <-time.After(6 * time.Second): // a body has to be there within 5 s
	}
	if n := r.lockState("long").Waiting; n != 1 {
		t.Errorf("%d wait", n)
	}
	r.want(204, "DELETE", leases("long")+"/"+first.Lease, "", nil)
	if a := <-waiter; a.status != 201 {
		t.Errorf("the waiter: %s", a)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A server that ends tells those who wait, at once, and they have left the line, but for those who will
// come back.
func TestLockShutdown(t *testing.T) {
	r := newRig(t)
	stop := r.serving()
	r.acquire("end", `{"ttl_ms":60000}`)
	waiter := r.later(t.Context(), "end", `{"wait_ms":20000}`)
	r.untilWaiting("end", 1)
	patient := r.later(t.Context(), "end", `{"wait_ms":20000,"keep_place":true,"who":"patient"}`, "Idempotency-Key", "k")
	r.untilWaiting("end", 2)
	began := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end took %s", took)
	}
	for _, c := range []<-chan answer{waiter, patient} {
		a := <-c
		if kind, _ := a.problem(); a.status != 503 || kind != "closing" || a.header.Get("Retry-After") == "" {
			t.Errorf("the waiter: %s", a)
		}
	}
	r.until("the place of the one who keeps it is the only one", func() bool {
		info, err := r.locks.Info(t.Context(), "end")
		if err != nil {
			t.Fatal(err)
		}
		return len(info.Line) == 1 && info.Line[0].Who == "patient"
	})
}

// A store that is gone is told within a bounded time, also to those who wait; and the locks are there
// again when it is.
func TestLockStoreGone(t *testing.T) {
	redis := storetest.Redis(t)
	r := rigOn(t, redis.URL(), sqldbtest.SQLite(t))
	a := r.acquire("gone", `{"ttl_ms":60000}`)
	waiter := r.later(t.Context(), "gone", `{"wait_ms":20000}`)
	r.untilWaiting("gone", 1)
	redis.Kill()
	one := leases("gone") + "/" + a.Lease
	for _, c := range [][3]string{
		{"POST", leases("gone"), ``}, {"POST", leases("gone"), `{"wait_ms":20000}`}, {"POST", leases("gone"), `{"wait_ms":10}`},
		{"PUT", one, `{"ttl_ms":1000}`}, {"DELETE", one, ``}, {"GET", "/v1/locks/gone", ``}, {"GET", "/v1/locks", ``},
		{"POST", "/v1/locks/gone/breaks", `{"reason":"r"}`}, {"POST", "/v1/leases", `{"names":["x","y"]}`},
	} {
		got := r.within(5*time.Second, func() answer { return r.do(c[0], c[1], c[2]) })
		if kind, _ := got.problem(); got.status != 503 || (kind != "store-unavailable" && kind != "outcome-unknown") || got.header.Get("Retry-After") == "" {
			t.Errorf("%s %s %s: %s", c[0], c[1], c[2], got)
		}
	}
	select {
	case got := <-waiter:
		if got.status != 503 {
			t.Errorf("the waiter: %s", got)
		}
	case <-time.After(20 * time.Second):
		t.Error("the waiter hears nothing")
	}
	redis.Restart()
	r.until("a lock again", func() bool { return r.do("POST", leases("gone"), ``).status == 201 })
}
