package guard_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/holdfast-dev/holdfast/lock/guard"
	"github.com/holdfast-dev/holdfast/store"
)

// The first holder was paused past its lease, and writes after the second one. Without the fence
// its write would be the last word.
func Example() {
	ctx := context.Background()
	s, err := store.Open(ctx, "mem:", store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	first, second := guard.Fence{Token: 33, Owner: "ada"}, guard.Fence{Token: 34, Owner: "bob"}
	if err := guard.Put(ctx, s, "seat 14B", second, []byte("bob"), time.Hour); err != nil {
		log.Fatal(err)
	}
	err = guard.Put(ctx, s, "seat 14B", first, []byte("ada"), time.Hour)
	fmt.Println("stale:", errors.Is(err, guard.ErrStale))
	owner, token, err := guard.Get(ctx, s, "seat 14B")
	fmt.Println(string(owner), token, err)
	// Output:
	// stale: true
	// bob 34 <nil>
}
