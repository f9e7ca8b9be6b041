package lock

import (
	_ "embed"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

//go:embed begin.lua
var beginLua string

//go:embed free.lua
var freeLua string

//go:embed grant.lua
var grantLua string

//go:embed acquire.lua
var acquireLua string

type acquireIn struct {
	Mark       string `store:"key"`
	Held       string `store:"key"`
	Queue      string `store:"key"`
	Waiters    string `store:"key"`
	Names      string `store:"key"`
	Name       string
	Owner      string
	Weight     int64
	Of         int64
	TTL        int64  // µs
	Hold       int64  // µs
	Alive      int64  // µs; 0: it does not wait
	Channel    string `store:"channel"`
	MaxWaiters int64
	Who        string
}

type acquireOut struct{ Outcome, Token, Left, Again int64 }

// Outcomes of acquire.
const (
	isHeld = iota
	isLeased
	waits
	otherMode
	tooMany
)

var acquire = store.Decide("lock.acquire", body(beginLua+freeLua+grantLua+acquireLua), func(tx *store.Tx, in acquireIn) acquireOut {
	t := &table{tx: tx, at: place{in.Mark, in.Held, in.Queue, in.Waiters, in.Names}, name: in.Name, now: tx.Now()}
	me := waiter{in.Weight, in.Of, t.now + in.Alive, in.TTL, in.Hold, in.Who, in.Channel}
	t.scan()
	_, mine := tx.ZScore(in.Queue, in.Owner)
	if mine && in.Alive > 0 {
		t.stay(in.Owner, me)
	}
	t.grant()
	if v, ok := tx.HGet(in.Held, in.Owner); ok {
		l := parseLease(v)
		l.deadline = min(t.now+in.TTL, l.end)
		tx.HSet(in.Held, in.Owner, l.String())
		return acquireOut{isLeased, l.token, l.deadline - t.now, 0}
	}
	waiting := tx.ZCard(in.Queue)
	switch {
	case t.used > 0 && t.of != in.Of:
		return acquireOut{Outcome: otherMode}
	case waiting == 0 && (t.used == 0 || t.room(in.Weight)):
		l := t.lease(in.Owner, me)
		return acquireOut{isLeased, l.token, l.deadline - t.now, 0}
	case in.Alive == 0:
		return acquireOut{Outcome: isHeld, Again: max(t.soonest-t.now, 0)}
	}
	if !mine {
		if out := t.enqueue(in, me, waiting); out.Outcome != waits {
			return out
		}
	}
	if owner, _, _ := t.head(); owner == in.Owner {
		return acquireOut{Outcome: waits, Again: max(t.soonest-t.now, 0)}
	}
	return acquireOut{Outcome: waits}
})

// enqueue puts one more at the end of the line.
func (t *table) enqueue(in acquireIn, me waiter, waiting int64) acquireOut {
	if waiting >= in.MaxWaiters {
		return acquireOut{Outcome: tooMany}
	}
	ticket := t.draw()
	if mutant.LineOff {
		ticket = 0
	}
	t.tx.ZAdd(t.at.queue, ticket, in.Owner)
	t.stay(in.Owner, me)
	return acquireOut{Outcome: waits}
}
