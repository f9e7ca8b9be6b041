package lock_test

import (
	"context"
	"fmt"
	"log"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/store"
)

// A name is leased, and the work under it ends when the lease does.
func Example() {
	ctx := context.Background()
	s, err := store.Open(ctx, "mem:", store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	locks, err := lock.New(s, lock.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = locks.Close(ctx) }()

	lease, err := locks.Acquire(ctx, "seat 14B", lock.Request{})
	if err != nil {
		log.Fatal(err)
	}
	work := lease.Context() // done when the lease is lost
	fmt.Println("held:", work.Err() == nil, "token:", lease.Token() > 0)

	_, err = locks.TryAcquire(ctx, "seat 14B", lock.Request{})
	fmt.Println(err)
	fmt.Println("released:", lease.Release(ctx))
	// Output:
	// held: true token: true
	// lock: "seat 14B": lock: held by others
	// released: <nil>
}
