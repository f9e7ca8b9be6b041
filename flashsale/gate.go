package flashsale

import (
	_ "embed"
	"strconv"

	"github.com/holdfast-dev/holdfast/store"
)

// The gate of a sale: what stands in the store in front of SQL.
//
//	permits  zset   permit → deadline, µs; never for what is confirmed
//	spent    zset   permit that has ended → until when its answer can be asked for again
//	gate     hash   state (building, open), gen, until, cap, opens, version
//
// A permit counts while its deadline is ahead. Version moves whenever the set of permits does.
// All keys go when nothing has touched them for two key lives; the gate is then built anew.

// never is the deadline of a permit that does not lapse: the largest exact integer in Lua.
const never = 1<<53 - 1

const lapseBatch = 100 // what one admission cleans up for others

// Lives of permits that are no duration.
const (
	forever = "-1"
	isSpent = "-2"
)

func permitsKey(sale string) string { return "sale:{" + sale + "}:permits" }
func spentKey(sale string) string   { return "sale:{" + sale + "}:spent" }
func gateKey(sale string) string    { return "sale:{" + sale + "}:gate" }

//go:embed admit.lua
var admitLua string

type admitIn struct {
	Permits string `store:"key"`
	Spent   string `store:"key"`
	Gate    string `store:"key"`
	KeyLife int64  // µs
	ID      string
	Life    int64 // µs
	Fresh   bool  // SQL is known to have no answer
}

type admitOut struct{ Outcome, Deadline int64 }

// Outcomes of admit.
const (
	noGate = iota
	admitted
	spent
	soldOut
	notOpen
)

var admit = store.Decide("flashsale.admit", store.Lua(admitLua), func(tx *store.Tx, in admitIn) admitOut {
	now := tx.Now()
	if state, _ := tx.HGet(in.Gate, "state"); state != "open" {
		return admitOut{Outcome: noGate}
	}
	if now < tx.HInt(in.Gate, "opens") {
		return admitOut{Outcome: notOpen}
	}
	ttl := store.Until(now + 2*in.KeyLife)
	cleanUp(tx, in, ttl)

	deadline := now + in.Life
	if had, ok := tx.ZScore(in.Permits, in.ID); ok && had > now {
		if had >= deadline {
			return admitOut{admitted, had}
		}
	} else {
		if _, was := tx.ZScore(in.Spent, in.ID); (was || ok) && !in.Fresh {
			return admitOut{Outcome: spent}
		}
		if tx.ZCount(in.Permits, now+1, never) >= tx.HInt(in.Gate, "cap") {
			return admitOut{Outcome: soldOut}
		}
		tx.HIncr(in.Gate, "version", 1)
		tx.ZRem(in.Spent, in.ID)
	}
	tx.ZAdd(in.Permits, deadline, in.ID)
	tx.Expire(in.Permits, ttl)
	tx.Expire(in.Gate, ttl)
	return admitOut{admitted, deadline}
})

// cleanUp makes permits that have lapsed spent, because SQL may have an answer for them, and
// drops spent ones whose key has expired.
func cleanUp(tx *store.Tx, in admitIn, ttl store.Expiry) {
	now := tx.Now()
	lapsed := tx.ZRange(in.Permits, 0, now, lapseBatch)
	for _, m := range lapsed {
		tx.ZRem(in.Permits, m.Name)
		tx.ZAdd(in.Spent, now+in.KeyLife, m.Name)
	}
	if len(lapsed) > 0 {
		tx.Expire(in.Spent, ttl)
		tx.HIncr(in.Gate, "version", int64(len(lapsed)))
	}
	for _, m := range tx.ZRange(in.Spent, 0, now, lapseBatch) {
		tx.ZRem(in.Spent, m.Name)
	}
}

//go:embed extend.lua
var extendLua string

type extendIn struct {
	Permits string   `store:"key"`
	Spent   string   `store:"key"`
	Gate    string   `store:"key"`
	KeyLife int64    // µs
	Items   []string // id and life in µs, alternating
}

type extendOut struct{ Gate, Changed int64 }

var extend = store.Decide("flashsale.extend", store.Lua(extendLua), func(tx *store.Tx, in extendIn) extendOut {
	if _, ok := tx.HGet(in.Gate, "state"); !ok {
		return extendOut{}
	}
	now := tx.Now()
	out := extendOut{Gate: 1}
	for i := 0; i+1 < len(in.Items); i += 2 {
		id, deadline := in.Items[i], int64(never)
		if life := number(in.Items[i+1]); life >= 0 {
			deadline = now + life
		}
		had, ok := tx.ZScore(in.Permits, id)
		if !ok {
			tx.HIncr(in.Gate, "version", 1)
		}
		if !ok || had < deadline {
			tx.ZAdd(in.Permits, deadline, id)
			tx.ZRem(in.Spent, id)
			out.Changed++
		}
	}
	if out.Changed > 0 {
		tx.Expire(in.Permits, store.Until(now+2*in.KeyLife))
		tx.Expire(in.Gate, store.Until(now+2*in.KeyLife))
	}
	return out
})

//go:embed giveback.lua
var giveBackLua string

type giveBackIn struct {
	Permits string   `store:"key"`
	Spent   string   `store:"key"`
	Gate    string   `store:"key"`
	KeyLife int64    // µs
	Only    int64    // only permits with this deadline, µs; 0 for any
	Answer  bool     // SQL has an answer for them
	IDs     []string // permits
}

type giveBackOut struct{ Ended int64 }

var giveBack = store.Decide("flashsale.giveback", store.Lua(giveBackLua), func(tx *store.Tx, in giveBackIn) giveBackOut {
	now := tx.Now()
	var out giveBackOut
	spent := 0
	_, built := tx.HGet(in.Gate, "state")
	for _, id := range in.IDs {
		had, ok := tx.ZScore(in.Permits, id)
		ends := ok && (in.Only == 0 || had == in.Only)
		if ends {
			tx.ZRem(in.Permits, id)
			out.Ended++
		}
		if _, known := tx.ZScore(in.Spent, id); in.Answer && built && !known && (ends || !ok) {
			tx.ZAdd(in.Spent, now+in.KeyLife, id)
			spent++
		}
	}
	if spent > 0 {
		tx.Expire(in.Spent, store.Until(now+2*in.KeyLife))
	}
	if out.Ended > 0 && built {
		tx.HIncr(in.Gate, "version", out.Ended)
	}
	return out
})

//go:embed mark.lua
var markLua string

type markIn struct {
	Permits string `store:"key"`
	Spent   string `store:"key"`
	Gate    string `store:"key"`
	Version int64  // that the caller knows
	Known   int64  // spent deadline up to which it knows
	Most    int64  // ids
}

type markOut struct {
	Outcome, Version, Known int64
	Live, Spent             []string
}

// Outcomes of mark.
const (
	markNone = iota
	markFree
	markChanged
	markSame
	markLarge
)

var mark = store.Decide("flashsale.mark", store.Lua(markLua), func(tx *store.Tx, in markIn) markOut {
	if state, _ := tx.HGet(in.Gate, "state"); state != "open" {
		return markOut{}
	}
	now := tx.Now()
	out := markOut{Outcome: markFree, Version: tx.HInt(in.Gate, "version")}
	live := tx.ZCount(in.Permits, now+1, never)
	if live < tx.HInt(in.Gate, "cap") {
		return out
	}
	if live+tx.ZCount(in.Spent, in.Known+1, never) > in.Most {
		out.Outcome = markLarge
		return out
	}
	// At the deadline that is known there may be more than the caller has seen.
	out.Known = in.Known
	for _, m := range tx.ZRange(in.Spent, in.Known, never, 0) {
		out.Spent = append(out.Spent, m.Name)
		out.Known = m.Score
	}
	if out.Outcome = markSame; out.Version != in.Version {
		out.Outcome = markChanged
		for _, m := range tx.ZRange(in.Permits, now+1, never, 0) {
			out.Live = append(out.Live, m.Name)
		}
	}
	return out
})

//go:embed build.lua
var buildLua string

type buildIn struct {
	Permits string   `store:"key"`
	Spent   string   `store:"key"`
	Gate    string   `store:"key"`
	KeyLife int64    // µs
	Step    string   // begin, add, open
	Gen     string   // the builder
	Cap     int64    // units
	Opens   int64    // µs
	GivenUp string   // a generation whose builder will not go on
	Items   []string // id and life in µs, alternating
}

type buildOut struct {
	Done bool
	Open bool // there is a gate: nothing to build
}

// buildPatience is how long a builder may be silent before another takes over, µs.
const buildPatience = 1_000_000

var build = store.Decide("flashsale.build", store.Lua(buildLua), func(tx *store.Tx, in buildIn) buildOut {
	now := tx.Now()
	state, exists := tx.HGet(in.Gate, "state")
	gen, _ := tx.HGet(in.Gate, "gen")
	switch {
	case in.Step != "begin" && (state != "building" || gen != in.Gen):
		return buildOut{}
	case in.Step == "begin" && state == "open":
		return buildOut{Open: true}
	case in.Step == "begin" && exists && gen != in.Gen && gen != in.GivenUp && tx.HInt(in.Gate, "until") > now:
		return buildOut{}
	case in.Step == "begin":
		tx.Del(in.Permits, in.Spent, in.Gate)
		tx.HSet(in.Gate, "state", "building")
		tx.HSet(in.Gate, "gen", in.Gen)
		tx.HSetInt(in.Gate, "cap", in.Cap)
		tx.HSetInt(in.Gate, "opens", in.Opens)
		tx.HSetInt(in.Gate, "version", now)
	}
	tx.HSetInt(in.Gate, "until", now+buildPatience)
	for i := 0; i+1 < len(in.Items); i += 2 {
		switch id, life := in.Items[i], in.Items[i+1]; life {
		case isSpent:
			tx.ZAdd(in.Spent, now+in.KeyLife, id)
		case forever:
			tx.ZAdd(in.Permits, never, id)
		default:
			tx.ZAdd(in.Permits, now+number(life), id)
		}
	}
	if in.Step == "open" {
		tx.HSet(in.Gate, "state", "open")
	}
	for _, key := range []string{in.Permits, in.Spent, in.Gate} {
		tx.Expire(key, store.Until(now+2*in.KeyLife))
	}
	return buildOut{Done: true, Open: in.Step == "open"}
})

// number reads a life that this package has written; what is none counts as 0.
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
