package lock

import (
	_ "embed"

	"github.com/holdfast-dev/holdfast/store"
)

//go:embed release.lua
var releaseLua string

//go:embed next.lua
var nextLua string

type releaseIn struct {
	Mark    string `store:"key"`
	Held    string `store:"key"`
	Queue   string `store:"key"`
	Waiters string `store:"key"`
	Names   string `store:"key"`
	Name    string
	Owner   string
	Token   int64 // of the lease that is meant; 0: any, or a place in line; -1: a place alone
}

type releaseOut struct{ Outcome int64 }

// placeOnly is the token with which a release ends no lease.
const placeOnly = -1

// Outcomes of release.
const (
	hadNothing = iota
	hadLease
	hadPlace
)

var release = store.Decide("lock.release", body(beginLua+releaseLua+grantLua+nextLua), func(tx *store.Tx, in releaseIn) (out releaseOut) {
	t := &table{tx: tx, at: place{in.Mark, in.Held, in.Queue, in.Waiters, in.Names}, name: in.Name, now: tx.Now()}
	v, ok := tx.HGet(in.Held, in.Owner)
	l := parseLease(v)
	if ok && (in.Token == 0 || in.Token == l.token) {
		tx.HDel(in.Held, in.Owner)
		if l.deadline > t.now {
			out.Outcome = hadLease
		}
		if l.weight == l.of || tx.HLen(in.Held) == 0 {
			tx.ZRem(in.Names, in.Name)
		}
	} else if in.Token <= 0 && t.leave(in.Owner) {
		out.Outcome = hadPlace
	}
	if tx.ZCard(in.Queue) > 0 {
		t.scan()
		t.grant()
	}
	return out
})

//go:embed renew.lua
var renewLua string

type renewIn struct {
	Held  string `store:"key"`
	Owner string
	Token int64 // of the lease that is meant; 0: any
	TTL   int64 // µs
}

type renewOut struct{ Token, Left int64 }

var renew = store.Decide("lock.renew", store.Lua(renewLua), func(tx *store.Tx, in renewIn) renewOut {
	v, ok := tx.HGet(in.Held, in.Owner)
	l := parseLease(v)
	if now := tx.Now(); ok && l.deadline > now && (in.Token == 0 || in.Token == l.token) {
		l.deadline = min(now+in.TTL, l.end)
		tx.HSet(in.Held, in.Owner, l.String())
		return renewOut{l.token, l.deadline - now}
	}
	return renewOut{}
})
