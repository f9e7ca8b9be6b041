package server_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// within fails when an answer about a dependency that is gone takes long.
func (r *rig) within(d time.Duration, fn func() answer) answer {
	r.Helper()
	began := time.Now()
	a := fn()
	if took := time.Since(began); took > d {
		r.Errorf("%s took %s", a, took)
	}
	return a
}

func TestStoreGone(t *testing.T) {
	redis := storetest.Redis(t)
	r := rigOn(t, redis.URL(), sqldbtest.SQLite(t))
	r.sale("drop", 3)
	first := r.hold("drop", "ada")
	redis.Kill()
	post := func() answer {
		return r.do("POST", "/v1/sales/drop/holds", `{"buyer":"bob"}`, "Idempotency-Key", "b")
	}
	a := r.within(3*time.Second, post)
	kind, _ := a.problem()
	if a.status != 503 || (kind != "store-unavailable" && kind != "outcome-unknown") || a.header.Get("Retry-After") == "" {
		t.Errorf("hold: %s", a)
	}
	if a := r.within(2*time.Second, func() answer { return r.do("GET", "/readyz", "") }); a.status != 503 || !strings.Contains(string(a.body), `"store":"down"`) {
		t.Errorf("readyz: %s", a)
	}
	if a := r.do("GET", "/livez", ""); a.status != 200 {
		t.Errorf("livez: %s", a)
	}
	r.pay(first) // needs no store to be accepted
	redis.Restart()
	r.until("bob holds a unit", func() bool { return post().status == 201 })
	r.until("ready again", func() bool { return r.do("GET", "/readyz", "").status == 200 })
	var sale struct{ Stock, Held, Sold int }
	r.until("ada's is sold, although the store began empty", func() bool {
		r.want(200, "GET", "/v1/sales/drop", "", &sale)
		return sale.Sold == 1 && sale.Held == 1
	})
}

func TestDatabaseGone(t *testing.T) {
	pg := sqldbtest.Postgres(t)
	r := rigOn(t, "mem:", pg.NewDatabase(t))
	r.sale("drop", 3)
	r.hold("drop", "ada")
	pg.Kill()
	post := func() answer {
		return r.do("POST", "/v1/sales/drop/holds", `{"buyer":"bob"}`, "Idempotency-Key", "b")
	}
	a := r.within(5*time.Second, post)
	if kind, _ := a.problem(); a.status != 503 || (kind != "database-unavailable" && kind != "timeout" && kind != "busy") {
		t.Errorf("hold: %s", a)
	}
	if a := r.within(2*time.Second, func() answer { return r.do("GET", "/readyz", "") }); a.status != 503 || !strings.Contains(string(a.body), `"database":"down"`) {
		t.Errorf("readyz: %s", a)
	}
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	r.until("bob holds a unit", func() bool { return post().status == 201 })
	r.until("ready again", func() bool { return r.do("GET", "/readyz", "").status == 200 })
}

// A storm that waits is a request that is worked on for as long as the test wants.
func waiting(c *server.Config) (arrived chan struct{}, release chan struct{}) {
	arrived, release = make(chan struct{}, 10), make(chan struct{})
	c.Storm = func(context.Context) (string, error) {
		arrived <- struct{}{}
		<-release
		return "late", nil
	}
	return arrived, release
}

func TestTooManyAtOnce(t *testing.T) {
	var arrived, release chan struct{}
	r := newRig(t, func(c *server.Config) {
		c.MaxInFlight = 1
		arrived, release = waiting(c)
	})
	done := make(chan answer, 1)
	req := r.request("POST", "/storm", "")
	go func() { done <- r.send(req) }()
	<-arrived
	a := r.do("GET", "/v1/sales", "")
	if kind, _ := a.problem(); a.status != 503 || kind != "overloaded" || a.header.Get("Retry-After") == "" {
		t.Errorf("while one is worked on: %s", a)
	}
	if a := r.do("GET", "/livez", ""); a.status != 200 {
		t.Errorf("livez: %s", a)
	}
	close(release)
	if a := <-done; a.status != 202 {
		t.Errorf("the one: %s", a)
	}
	r.want(200, "GET", "/v1/sales", "", nil)
}

func TestShutdownFinishesWhatHasBegun(t *testing.T) {
	var arrived, release chan struct{}
	r := newRig(t, func(c *server.Config) { arrived, release = waiting(c) })
	l, err := server.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ctx, l, 10*time.Second) }()
	r.web.URL = "http://" + l.Addr().String()
	done := make(chan answer, 1)
	req := r.request("POST", "/storm", "")
	go func() { done <- r.send(req) }()
	<-arrived
	stop()
	r.until("no new connection is taken", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.web.URL+"/livez", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		fresh := &http.Transport{DisableKeepAlives: true}
		resp, err := fresh.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err != nil
	})
	select {
	case err := <-served:
		t.Fatalf("ended with a request in flight: %v", err)
	default:
	}
	close(release)
	if a := <-done; a.status != 202 || !strings.Contains(string(a.body), "late") {
		t.Errorf("the request: %s", a)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	r.web.Client().CloseIdleConnections()
}

func TestRequestsThatDoNotEndAreCutOff(t *testing.T) {
	var arrived, release chan struct{}
	r := newRig(t, func(c *server.Config) { arrived, release = waiting(c) })
	l, err := server.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ctx, l, 50*time.Millisecond) }()
	r.web.URL = "http://" + l.Addr().String()
	req := r.request("POST", "/storm", "")
	done := make(chan error, 1)
	go func() {
		resp, err := r.web.Client().Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		done <- err
	}()
	<-arrived
	stop()
	if err := <-served; err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("got %v", err)
	}
	if err := <-done; err == nil {
		t.Error("the request got an answer")
	}
	close(release)
}
