package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

const limitRules = `domain: shop
descriptors:
  - key: tenant
    rate_limit: {unit: day, requests_per_unit: 3}
    descriptors:
      - {key: path, rate_limit: {unit: day, requests_per_unit: 2, algorithm: token-bucket}}
  - {key: tenant, value: quiet, shadow_mode: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: tenant, value: banned, rate_limit: {unit: day, requests_per_unit: 0}}
  - {key: tokens, rate_limit: {unit: day, requests_per_unit: 100}}
  - {key: jobs, rate_limit: {requests_per_unit: 1, algorithm: concurrency, lease: 60s}}
  - {key: closed, rate_limit: {unit: day, requests_per_unit: 5, on_error: closed}}
  - {key: open, rate_limit: {unit: day, requests_per_unit: 5, on_error: open}}
`

// limited gives a server limits.
func limited(t testing.TB, o ratelimit.Options) func(*server.Config) {
	return func(c *server.Config) {
		rules, err := ratelimit.ParseRules(ratelimit.File{Name: "limits", Text: []byte(limitRules)})
		if err != nil {
			t.Fatal(err)
		}
		c.LimitCalls = server.NewLimitCalls()
		o.Observe = c.LimitCalls.Observe
		if c.Limits, err = ratelimit.New(c.Store, rules, o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Limits.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// patient is a Timeout with which only a store that is gone is too slow.
var patient = ratelimit.Options{Timeout: 5 * time.Second}

func eachLimited(t *testing.T, fn func(t *testing.T, r *rig)) {
	t.Run("mem", func(t *testing.T) { fn(t, newRig(t, limited(t, patient))) })
	t.Run("redis", func(t *testing.T) {
		fn(t, rigOn(t, storetest.Redis(t).URL(), sqldbtest.SQLite(t), limited(t, patient)))
	})
}

const decisions = "/v1/limits/decisions"

// wish is a call of one descriptor: pairs of keys and values.
func wish(more string, pairs ...string) string {
	entries := []server.LimitEntry{}
	for i := 0; i < len(pairs); i += 2 {
		entries = append(entries, server.LimitEntry{Key: pairs[i], Value: pairs[i+1]})
	}
	text, _ := json.Marshal(entries)
	return fmt.Sprintf(`{"domain":"shop","descriptors":[{"entries":%s}]%s}`, text, more)
}

func TestLimits(t *testing.T) {
	eachLimited(t, func(t *testing.T, r *rig) {
		for left := int64(2); left >= 0; left-- {
			var d server.LimitDecision
			a := r.want(200, "POST", decisions, wish("", "tenant", "ada"), &d)
			if !d.Allowed || d.Source != "store" || !d.Atomic || len(d.Limits) != 1 || d.Limits[0].Rule != "tenant" || *d.Limits[0].Remaining != left {
				t.Errorf("%s", a)
			}
			if a.header.Get("RateLimit") == "" || a.header.Get("RateLimit-Policy") != `"tenant";q=3;w=86400` {
				t.Errorf("%v", a.header)
			}
		}
		var p server.LimitRefusal
		a := r.want(429, "POST", decisions, wish("", "tenant", "ada"), &p)
		if p.Allowed || p.Wait <= 0 || a.header.Get("Retry-After") == "" || len(p.Violated) != 1 || p.Violated[0] != "tenant" || !strings.Contains(p.Type, "quota-exceeded") || p.Status != 429 || !p.Limits[0].Refused {
			t.Errorf("%s %+v", a, p)
		}
		if got := a.header.Get("Content-Type"); got != "application/problem+json" {
			t.Error(got)
		}
		// Who is refused by one rule takes nothing of the others.
		both := `{"domain":"shop","descriptors":[{"entries":[{"key":"tokens","value":"x"}],"cost":40},{"entries":[{"key":"tenant","value":"ada"}]}]}`
		r.want(429, "POST", decisions, both, nil)
		var d server.LimitDecision
		if r.want(200, "POST", decisions, wish(`,"check":true`, "tokens", "x"), &d); *d.Limits[0].Remaining != 100 {
			t.Errorf("%+v: a refusal took of another rule, or a check did", d.Limits[0])
		}
		if r.want(200, "POST", decisions, wish("", "tenant", "quiet"), &d); d.Limits[0].Refused {
			t.Errorf("%+v", d)
		}
		if r.want(200, "POST", decisions, wish("", "tenant", "quiet"), &d); !d.Allowed || !d.Limits[0].Refused || !d.Limits[0].Shadow {
			t.Errorf("%+v", d)
		}
		if a := r.want(429, "POST", decisions, wish("", "tenant", "banned"), nil); a.header.Get("Retry-After") != "" {
			t.Errorf("it never admits anything, and says when to come back: %v", a.header)
		}
		if r.want(200, "POST", decisions, wish("", "nobody", "x"), &d); !d.Allowed || len(d.Limits) != 0 {
			t.Errorf("%+v", d)
		}
		var top struct{ Keys []server.RefusedKey }
		r.want(200, "GET", "/v1/limits/refused", "", &top)
		if len(top.Keys) != 2 || top.Keys[0].Rule != "tenant" || top.Keys[0].Key == "" || top.Keys[0].Refused != 2 {
			t.Errorf("%+v", top)
		}
		r.untilSample(`holdfast_limit_decisions_total{domain="shop",outcome="refused",rule="tenant"}`, "2")
		r.untilSample(`holdfast_limit_decisions_total{domain="shop",outcome="would_refuse",rule="tenant=quiet"}`, "1")
		r.untilSample(`holdfast_limit_decisions_total{domain="shop",outcome="refused",rule="tenant=quiet"}`, "0") // so that its first one is an increase
	})
}

// A reservation is taken once and settled once; the one who settles it need not be the one who made it.
func TestLimitReservations(t *testing.T) {
	eachLimited(t, func(t *testing.T, r *rig) {
		const path = "/v1/limits/reservations/r-1"
		guess := `{"domain":"shop","descriptors":[{"entries":[{"key":"tokens","value":"y"}],"cost":60}]}`
		settle := func(n int) string { return strings.TrimSuffix(guess, "}") + fmt.Sprintf(`,"actual":[%d]}`, n) }
		left := func() int64 {
			var d server.LimitDecision
			r.want(200, "POST", decisions, wish(`,"check":true`, "tokens", "y"), &d)
			return *d.Limits[0].Remaining
		}
		r.want(200, "PUT", path, guess, nil)
		r.want(200, "PUT", path, guess, nil)
		if got := left(); got != 40 {
			t.Errorf("%d are left after one reservation that was repeated", got)
		}
		r.want(429, "PUT", "/v1/limits/reservations/r-2", guess, nil)
		r.want(204, "POST", path+"/commits", settle(10), nil)
		r.want(204, "POST", path+"/commits", settle(10), nil)
		if got := left(); got != 90 {
			t.Errorf("%d are left, not 90", got)
		}
		r.refused(409, "settled", "POST", path+"/commits", settle(11))
		r.refused(409, "settled", "POST", path+"/refunds", guess)
		r.refused(404, "not-reserved", "POST", "/v1/limits/reservations/r-2/refunds", guess)
		// Slots.
		job := wish("", "jobs", "z")
		slot := "/v1/limits/reservations/"
		r.want(200, "PUT", slot+"a", job, nil)
		r.want(429, "PUT", slot+"b", job, nil)
		var renewed struct{ Held bool }
		if r.want(200, "POST", slot+"a/renewals", job, &renewed); !renewed.Held {
			t.Error("the slot is lost")
		}
		r.refused(404, "not-reserved", "POST", slot+"b/renewals", job)
		r.refused(404, "not-reserved", "POST", slot+"a/refunds", wish("", "jobs", "y")) // of other descriptors
		r.want(204, "POST", slot+"a/refunds", job, nil)
		r.refused(409, "settled", "POST", slot+"a/renewals", job)
		r.want(200, "PUT", slot+"b", job, nil)
	})
}

func TestLimitsBadInput(t *testing.T) {
	r := newRig(t, limited(t, patient))
	for _, c := range []struct {
		status             int
		kind, method, path string
		body               string
	}{
		{422, "invalid", "POST", decisions, `{}`},
		{422, "invalid", "POST", decisions, `{"domain":"shop","descriptors":[]}`},
		{422, "invalid", "POST", decisions, `{"domain":"","descriptors":[{"entries":[{"key":"tenant","value":"a"}]}]}`},
		{422, "invalid", "POST", decisions, `{"domain":"shop","descriptors":[{"entries":[]}]}`},
		{422, "invalid", "POST", decisions, `{"domain":"shop","descriptors":[{"entries":[{"key":"tenant","value":"a"}],"cost":-1}]}`},
		{422, "invalid", "POST", decisions, `{"domain":"shop","descriptors":[{"entries":[{"key":"tenant","value":"a"}],"cost":4}]}`},
		{422, "invalid", "POST", decisions, wish("", "tenant", strings.Repeat("v", 600))},
		{422, "invalid", "POST", decisions, `{"domain":"shop","descriptors":[` + strings.Repeat(`{"entries":[{"key":"tenant","value":"a"}]},`, 64) + `{"entries":[{"key":"tenant","value":"a"}]}]}`},
		{400, "malformed", "POST", decisions, `{`},
		{422, "invalid", "PUT", "/v1/limits/reservations/a.b", wish("", "tenant", "a")},
		{422, "invalid", "PUT", "/v1/limits/reservations/" + strings.Repeat("x", 65), wish("", "tenant", "a")},
		{422, "invalid", "POST", "/v1/limits/reservations/a/commits", wish(`,"actual":[1,2]`, "tenant", "a")},
		{422, "invalid", "POST", "/v1/limits/reservations/a/commits", wish(`,"actual":[-1]`, "tenant", "a")},
		{404, "not-reserved", "POST", "/v1/limits/reservations/a/commits", wish(`,"actual":[1]`, "tenant", "a")},
		{404, "not-reserved", "POST", "/v1/limits/reservations/a/commits", wish(`,"actual":[1]`, "nobody", "a")},
	} {
		r.refused(c.status, c.kind, c.method, c.path, c.body)
	}
	var d server.LimitDecision
	if r.want(200, "POST", decisions, wish(`,"check":true`, "tenant", "a"), &d); *d.Limits[0].Remaining != 3 {
		t.Errorf("something was taken: %+v", d.Limits[0])
	}
	without := newRig(t)
	without.refused(501, "no-limits", "POST", decisions, wish("", "tenant", "a"))
	without.refused(501, "no-limits", "GET", "/v1/limits", "")
}

// Without its store a decision comes by the rules' policies, soon.
func TestLimitsWithoutTheStore(t *testing.T) {
	engine := storetest.Redis(t)
	r := rigOn(t, engine.URL(), sqldbtest.SQLite(t), limited(t, ratelimit.Options{}))
	r.want(200, "POST", decisions, wish("", "open", "a"), nil)
	r.untilSample("holdfast_limit_circuit_open", "0")
	engine.Kill()
	var d server.LimitDecision
	for range 10 {
		a := r.within(2*time.Second, func() answer { return r.do("POST", decisions, wish("", "open", "a")) })
		if err := json.Unmarshal(a.body, &d); err != nil || a.status != 200 || d.Source != "policy" {
			t.Fatalf("%s", a)
		}
	}
	a := r.do("POST", decisions, wish("", "closed", "a"))
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "temporary-reduced-capacity") {
		t.Errorf("%s", a)
	}
	r.refused(503, "store-unavailable", "POST", "/v1/limits/reservations/a/refunds", wish("", "tenant", "a"))
	// The metrics tell it, and when it is over.
	r.untilSample("holdfast_limit_circuit_open", "1")
	if n := r.number(`holdfast_limit_decision_seconds_count{source="policy"}`); n < 11 { // the first call may have been late
		t.Errorf("%v decisions of policies, not 11 or more", n)
	}
	engine.Restart()
	r.untilSample("holdfast_limit_circuit_open", "0")
	r.until("the store decides", func() bool {
		var d server.LimitDecision
		return json.Unmarshal(r.do("POST", decisions, wish("", "open", "a")).body, &d) == nil && d.Source == "store"
	})
}

func TestListLimits(t *testing.T) {
	r := newRig(t, limited(t, patient))
	var got struct {
		Rules []server.LimitRule
	}
	r.want(200, "GET", "/v1/limits", "", &got)
	if len(got.Rules) != 8 || got.Rules[0].Name != "closed" || got.Rules[0].OnError != "closed" || got.Rules[0].Window != 86_400_000 {
		t.Errorf("%+v", got)
	}
}

// The rules that the manual names are rules.
func TestExampleOfLimits(t *testing.T) {
	rules, err := ratelimit.LoadRules("../examples/limits/shop.yaml")
	if err != nil || rules.Len() != 5 {
		t.Errorf("%v, %v", rules, err)
	}
}
