package drill

import (
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkTime bounds the search for one key's order.
const checkTime = 20 * time.Second

// historyOp is a command with its place among those without an answer, in the order in which they were sent.
type historyOp struct {
	nodeOp
	turn int
}

// linearizable asks for an order of the commands that explains every answer. A command without an answer
// may take effect at any later time, or never: that is, at the end.
//
// Any number of such commands would be tried in each order. Two facts, which change no verdict, spare
// that: a value that is never read may as well have been written at the end; and increments without answers are
// all alike, so that some order explains the answers only if one does in which these come in the order of their calls.
func linearizable(m porcupine.Model, ops []nodeOp) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(m, historyOf(ops), checkTime)
}

func historyOf(ops []nodeOp) (history []porcupine.Operation) {
	ops = slices.SortedStableFunc(slices.Values(ops), func(a, b nodeOp) int { return a.call.Compare(b.call) })
	since := func(t time.Time) int64 { return int64(t.Sub(ops[0].call)) } // not by the time of day, which may be set meanwhile
	var end int64
	read := map[string]bool{}
	for _, op := range ops {
		end = max(end, since(op.ret))
		if text, ok := op.answer.(string); ok {
			read[text] = true
		}
	}
	turn := 0
	for _, op := range ops {
		o := porcupine.Operation{ClientId: op.client, Input: historyOp{op, turn}, Call: since(op.call), Return: since(op.ret)}
		switch {
		case op.outcome == refused, op.outcome == unknown && op.value == "":
			continue // it changed nothing, and said nothing
		case op.outcome == unknown && op.kind == "set" && !read[op.value]:
			continue
		case op.outcome == unknown:
			o.Return = end + 1
			turn++
		}
		history = append(history, o)
	}
	return history
}

var registerModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, in, _ any) (bool, any) {
		op := in.(historyOp)
		if op.kind == "set" {
			return true, op.value
		}
		got, _ := op.answer.(string)
		return got == state.(string), state
	},
}

// count is a counter, and how many of the increments without an answer are in it.
type count struct {
	n    int64
	open int
}

// counterModel is of what only grows, by one.
var counterModel = porcupine.Model{
	Init: func() any { return count{} },
	Step: func(state, in, _ any) (bool, any) {
		op, c := in.(historyOp), state.(count)
		switch op.kind {
		case "incr", "zincr", "pair":
			if op.outcome == unknown {
				return op.turn == c.open, count{c.n + 1, c.open + 1}
			}
			return numberOf(op.answer) == c.n+1, count{c.n + 1, c.open}
		}
		return numberOf(op.answer) == c.n, c
	},
}
