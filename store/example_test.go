package store_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/holdfast-dev/holdfast/store"
)

type takeIn struct {
	Stock string `store:"key"`
	Want  int64
}

type takeOut struct {
	OK   bool
	Left int64
}

// take takes from a stock what is there. It is not idempotent: after ErrOutcomeUnknown a
// caller that repeats it may take twice.
var take = store.Decide("example.take", store.Lua(`
local left = tonumber(redis.call('GET', KEYS[1]) or '0')
local want = tonumber(ARGV[1])
if want > left then return {0, left} end
redis.call('SET', KEYS[1], string.format('%.0f', left - want))
return {1, left - want}
`), func(tx *store.Tx, in takeIn) takeOut {
	left := tx.Int(in.Stock)
	if in.Want > left {
		return takeOut{Left: left}
	}
	tx.SetInt(in.Stock, left-in.Want, store.Forever)
	return takeOut{OK: true, Left: left - in.Want}
})

type fillIn struct {
	Stock string `store:"key"`
	N     int64
}

var fill = store.Decide("example.fill", store.Command("INCRBY"), func(tx *store.Tx, in fillIn) struct{ N int64 } {
	return struct{ N int64 }{tx.Incr(in.Stock, in.N)}
})

// A decision that reads and writes in one atomic step; with "redis://host" in the place of
// "mem:" it is the script that decides.
func Example() {
	ctx := context.Background()
	s, err := store.Open(ctx, "mem:", store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if _, err := fill.Do(ctx, s, fillIn{"shop:{chair}", 3}); err != nil {
		log.Fatal(err)
	}
	for _, want := range []int64{2, 2, 1} {
		got, err := take.Do(ctx, s, takeIn{"shop:{chair}", want})
		switch {
		case errors.Is(err, store.ErrOutcomeUnknown):
			fmt.Println("it may have happened:", err)
		case err != nil:
			fmt.Println("it did not happen:", err)
		default:
			fmt.Println(want, got.OK, got.Left)
		}
	}
	// Output:
	// 2 true 1
	// 2 false 1
	// 1 true 0
}
