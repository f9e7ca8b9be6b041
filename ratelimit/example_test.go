package ratelimit_test

import (
	"context"
	"fmt"
	"log"
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
