package ratelimit_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/store"
)

// Two limits at once: a tenant's requests a minute, and how many of a kind run at the same time.
func Example() {
	ctx := context.Background()
	s, err := store.Open(ctx, "mem:", store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	rules, err := ratelimit.NewRules(
		ratelimit.Rule{Name: "per tenant", Quota: ratelimit.Quota{Limit: 100, Window: time.Minute, Burst: 3}},
		ratelimit.Rule{Name: "reports", Algorithm: ratelimit.Concurrency, Quota: ratelimit.Quota{Limit: 1}},
	)
	if err != nil {
		log.Fatal(err)
	}
	limits, err := ratelimit.New(s, rules, ratelimit.Options{Timeout: time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = limits.Close(ctx) }()

	wants := []ratelimit.Request{{Rule: "per tenant", Key: "acme", Cost: 1}, {Rule: "reports", Cost: 1}}
	first, err := limits.Allow(ctx, wants)
	if err != nil {
		log.Fatal(err)
	}
	second, err := limits.Allow(ctx, wants)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("first:", first.Allowed)
	fmt.Println("second:", second.Allowed, second.Refused(), "left of the tenant's:", second.Statuses[0].Remaining)
	_ = first.Release(ctx) // its report is done
	third, err := limits.Allow(ctx, wants)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("third:", third.Allowed)
	// Output:
	// first: true
	// second: false [reports] left of the tenant's: 2
	// third: true
}

// A server whose requests go by the rules of a file.
func ExampleLimiter_HTTP() {
	ctx := context.Background()
	s, err := store.Open(ctx, "mem:", store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	rules, err := ratelimit.ParseRules(ratelimit.File{Name: "limits.yaml", Text: []byte(`
domain: web
descriptors:
  - key: tenant
    rate_limit: {algorithm: token-bucket, window: 60s, requests_per_unit: 60, burst: 1}
`)})
	if err != nil {
		log.Fatal(err)
	}
	limits, err := ratelimit.New(s, rules, ratelimit.Options{Timeout: time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = limits.Close(ctx) }()

	handler := limits.HTTP(func(r *http.Request) []ratelimit.Request {
		reqs, _ := limits.Rules().Match("web", 1, []ratelimit.Entry{{Key: "tenant", Value: r.Header.Get("Tenant")}})
		return reqs
	}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }))

	for range 2 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Tenant", "acme")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Printf("%d %s, Retry-After %q\n", w.Code, w.Header().Get("RateLimit-Policy"), w.Header().Get("Retry-After"))
	}
	// Output:
	// 200 "tenant";q=60;w=60;holdfast-burst=1, Retry-After ""
	// 429 "tenant";q=60;w=60;holdfast-burst=1, Retry-After "1"
}
