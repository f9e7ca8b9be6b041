package lock

import (
	_ "embed"
	"slices"

	"github.com/holdfast-dev/holdfast/store"
)

//go:embed look.lua
var lookLua string

type lookIn struct {
	Held    string `store:"key"`
	Queue   string `store:"key"`
	Waiters string `store:"key"`
	Limit   int64
}

type lookOut struct {
	Now     int64
	Leases  []string
	Waiting int64
	Line    []string
}

var look = store.Decide("lock.look", store.Lua(lookLua), func(tx *store.Tx, in lookIn) lookOut {
	out := lookOut{Now: tx.Now(), Waiting: tx.ZCard(in.Queue)}
	for owner, v := range tx.HAll(in.Held) {
		if parseLease(v).deadline > out.Now {
			out.Leases = append(out.Leases, owner+" "+v)
		}
	}
	slices.Sort(out.Leases)
	for _, m := range tx.ZRange(in.Queue, store.MinInt, store.MaxInt, int(in.Limit)) {
		if v, ok := tx.HGet(in.Waiters, m.Name); ok {
			out.Line = append(out.Line, m.Name+" "+v)
		}
	}
	return out
})

//go:embed names.lua
var namesLua string

type namesIn struct {
	Names string `store:"key"`
	From  int64  // µs
	Limit int64
}

type namesOut struct{ Names []string }

var names = store.Decide("lock.names", store.Lua(namesLua), func(tx *store.Tx, in namesIn) (out namesOut) {
	for _, m := range tx.ZRange(in.Names, in.From, store.MaxInt, int(in.Limit)) {
		out.Names = append(out.Names, m.Name)
	}
	return out
})
