package ratelimit

import (
	_ "embed"
	"strings"

	"github.com/holdfast-dev/holdfast/store"
)

//go:embed settle.lua
var settleLua string

type settleIn struct {
	Keys   []string `store:"key"` // as of take
	ID     string
	CameTo string   // what a reservation came to; "-" to forget it; "" where there is no record
	Taken  int64    // when, µs; with a record, that says
	Rules  []string // five a rule: kind, most, span, units taken, units to add
}

type settleOut struct{ Outcome int64 }

// Outcomes of settle.
const (
	settledNothing = iota
	settledNow
	settledSame
	settledOther
)

// forget as settleIn.CameTo takes the record away.
const forget = "-"

var settle = store.Decide("ratelimit.settle", store.Lua(meterLua+settleLua), func(tx *store.Tx, in settleIn) settleOut {
	n := len(in.Rules) / perRule
	if in.CameTo != "" {
		v, ok := tx.Get(in.Keys[n])
		when, settled, _ := strings.Cut(v, " ")
		switch {
		case !ok:
			return settleOut{settledNothing}
		case settled == in.CameTo:
			return settleOut{settledSame}
		case settled != "":
			return settleOut{settledOther}
		}
		in.Taken = num(when)
		if in.CameTo == forget {
			tx.Del(in.Keys[n])
		} else {
			tx.Set(in.Keys[n], when+" "+in.CameTo, store.Keep)
		}
	}
	for i := range n {
		f := in.Rules[i*perRule:]
		cost := num(f[3])
		m := load(tx, in.Keys[i], rate{f[0], num(f[1]), num(f[2])}, cost, in.ID)
		m.settle(in.Taken, cost, num(f[4]), in.ID)
	}
	return settleOut{settledNow}
})
