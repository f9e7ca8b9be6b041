package ratelimit

import (
	_ "embed"

	"github.com/holdfast-dev/holdfast/store"
)

// liveKey is a zset: a process → until when it counts as alive, µs.
const liveKey = "limit:{live}"

//go:embed beat.lua
var beatLua string

type beatIn struct {
	Live    string `store:"key"`
	Process string
	Life    int64 // µs; 0: it ends
}

type beatOut struct{ Live int64 }

var beat = store.Decide("ratelimit.beat", store.Lua(beatLua), func(tx *store.Tx, in beatIn) beatOut {
	now := tx.Now()
	tx.ZRemRange(in.Live, store.MinInt, now)
	if in.Life > 0 {
		tx.ZAdd(in.Live, now+in.Life, in.Process)
		tx.Expire(in.Live, store.Until(now+longestLife))
	} else {
		tx.ZRem(in.Live, in.Process)
	}
	return beatOut{tx.ZCard(in.Live)}
})

// longestLife is three beats at their longest, µs.
const longestLife = 180_000_000
