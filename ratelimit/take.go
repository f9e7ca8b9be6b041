package ratelimit

import (
	_ "embed"
	"strconv"
	"strings"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

//go:embed meter.lua
var meterLua string

//go:embed take.lua
var takeLua string

//go:embed buckets.lua
var bucketsLua string

// Modes of take.
const (
	modeTake = iota
	modeLook
	modeReserve
	modeRenew // what was reserved
)

type takeIn struct {
	Keys  []string `store:"key"` // one a rule; behind them a reservation's record
	Mode  int64
	ID    string
	Life  int64    // of the record, µs
	Rules []string // five a rule: kind, most, span, units wanted, 1 if it is a shadow
}

type takeOut struct {
	Outcome int64
	Taken   int64    // when, µs
	States  []string // four a rule: 1 if it refuses, units left, wait, µs until more is left
}

// Outcomes of take.
const (
	refused = iota
	taken
	reservedBefore
	settledBefore
	notReserved
)

const (
	perRule  = 5 // elements of takeIn.Rules and settleIn.Rules
	perState = 4 // elements of takeOut.States
)

var take = store.Decide("ratelimit.take", store.Lua(bucketsLua+meterLua+takeLua), func(tx *store.Tx, in takeIn) takeOut {
	n := len(in.Rules) / perRule
	out := takeOut{Outcome: taken, Taken: tx.Now(), States: make([]string, 0, n*perState)}
	if in.Mode == modeReserve && !mutant.ReservedAgain || in.Mode == modeRenew {
		out.before(tx, in.Keys[n], in.Mode)
	}
	wants := make([]want, n)
	for i := range wants {
		wants[i] = wanted(tx, in, i)
		if wants[i].refuses && !wants[i].shadow && out.Outcome == taken {
			out.Outcome = refused
		}
	}
	for i := range wants {
		w := &wants[i]
		if in.Mode != modeLook && (out.Outcome == taken && !w.refuses || out.Outcome == refused && w.harms()) {
			if !mutant.Uncounted || tx.Now()%4 > 0 {
				w.take(w.cost, in.ID)
			}
		}
		out.States = w.appendState(out.States)
	}
	if (in.Mode == modeReserve || in.Mode == modeRenew) && out.Outcome == taken {
		tx.SetInt(in.Keys[n], out.Taken, store.Until(tx.Now()+in.Life))
	}
	return out
})

// before looks whether this reservation was made already.
func (out *takeOut) before(tx *store.Tx, record string, mode int64) {
	v, ok := tx.Get(record)
	if !ok {
		if mode == modeRenew {
			out.Outcome = notReserved
		}
		return
	}
	when, settled, _ := strings.Cut(v, " ")
	out.Taken = num(when)
	if settled != "" {
		out.Outcome = settledBefore
	} else if mode == modeReserve {
		out.Outcome = reservedBefore
	}
}

// want is a rule with what is wanted of it.
type want struct {
	meter
	cost            int64
	shadow, refuses bool
	waits           int64
}

func wanted(tx *store.Tx, in takeIn, i int) want {
	f := in.Rules[i*perRule:]
	w := want{cost: num(f[3]), shadow: f[4] == "1"}
	w.meter = load(tx, in.Keys[i], rate{f[0], num(f[1]), num(f[2])}, w.cost, in.ID)
	if !w.mine {
		w.waits = w.wait(w.cost)
	}
	w.refuses = w.waits > 0 || in.Mode == modeRenew && !w.mine
	if w.kind == kindLeaky && w.waits == 0 {
		w.waits = w.empty - w.now
	}
	return w
}

// harms is what mutants do with a call that is refused: true takes of a rule nevertheless.
func (w *want) harms() bool {
	return mutant.RefusedTakes && w.refuses || mutant.TakesPart && !w.refuses
}

// appendState is what the caller is told.
func (w *want) appendState(to []string) []string {
	refuses := "0"
	if w.refuses {
		refuses = "1"
	}
	left, more := w.left(), int64(0)
	if mutant.HalfWait && w.refuses {
		w.waits /= 2
	}
	if left < w.most {
		more = w.wait(left + 1)
	}
	return append(to, refuses, strconv.FormatInt(left, 10), strconv.FormatInt(w.waits, 10), strconv.FormatInt(more, 10))
}
