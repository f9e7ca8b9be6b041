package drill

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// judge looks at a round's history and at what is there after it.
func (s *nodeStorm) judge(round int, final *finalState, f *failover) {
	where := fmt.Sprintf("round %d", round+1)
	s.histories(where, final, f)
	before := len(f.lost)
	bag(where+", set", s.ofKey(s.prefix+"set"), final.members["set"], &f.lost, &f.twice)
	bag(where+", list", s.ofKey(s.prefix+"list"), final.members["list"], &f.lost, &f.twice)
	streamKept(where, s.ofKey(s.prefix+"stream"), final.stream, &f.lost, &f.twice)
	f.figures.Missing += len(f.lost) - before
	for _, op := range s.ops {
		if op.outcome == answered && (op.kind == "add" || op.kind == "xadd") {
			f.figures.Added++
		}
	}
	s.expired(where, &f.expiry)
	s.audible(where, f)
	if s.lacked > 0 {
		f.lost.add("%s: a function that was loaded was not there, %d times", where, s.lacked)
	}
}

func (s *nodeStorm) ofKey(key string) (ops []nodeOp) {
	for _, op := range s.ops {
		if op.key == key {
			ops = append(ops, op)
		}
	}
	return ops
}

// histories checks the keys that are a register or a counter, each with its final read.
func (s *nodeStorm) histories(where string, final *finalState, f *failover) {
	models := map[string]porcupine.Model{"set": registerModel, "get": registerModel, "incr": counterModel, "zincr": counterModel,
		"pair": counterModel, "pairget": counterModel}
	byKey, model := map[string][]nodeOp{}, map[string]porcupine.Model{}
	for _, op := range s.ops {
		if m, ok := models[op.kind]; ok {
			byKey[op.key], model[op.key] = append(byKey[op.key], op), m
		}
	}
	for _, op := range final.reads {
		byKey[op.key] = append(byKey[op.key], op)
	}
	for _, key := range sorted(byKey) {
		switch linearizable(model[key], byKey[key]) {
		case porcupine.Illegal:
			f.order.add("%s: the history of %s has no order (%d commands)", where, key, len(byKey[key]))
		case porcupine.Unknown:
			f.happened.add("%s: the history of %s was not decided in time", where, key)
		}
	}
	for _, op := range s.ops {
		if pair, ok := op.answer.([]any); ok && (op.kind == "pair" || op.kind == "pairget") && len(pair) == 2 && fmt.Sprint(pair[0]) != fmt.Sprint(pair[1]) {
			f.twice.add("%s: a pair that is always raised together is %v", where, pair)
		}
	}
}

// numberOf reads a counter out of an answer: a number, a text, the first of a pair, or nothing.
func numberOf(answer any) int64 {
	switch v := answer.(type) {
	case int64:
		return v
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return -1
		}
		return n
	case []any:
		if len(v) > 0 {
			return numberOf(v[0])
		}
		return -1
	}
	return 0
}

// bag checks elements that are added once and popped at most once.
func bag(where string, ops []nodeOp, there []string, lost, twice *findings) {
	added, tried, popped := map[string]bool{}, map[string]bool{}, map[string]int{}
	openPops := 0
	for _, op := range ops {
		switch {
		case op.kind == "add":
			tried[op.value] = op.outcome != refused
			added[op.value] = op.outcome == answered
		case op.outcome == unknown:
			openPops++
		case op.outcome == answered:
			if got := poppedValue(op.answer); got != "" {
				popped[got]++
			}
		}
	}
	seen := map[string]int{}
	for _, v := range there {
		seen[v]++
	}
	for _, v := range sorted(popped) {
		if n := popped[v]; n > 1 || seen[v] > 0 {
			twice.add("%s: %s was popped %d times and is there %d times", where, v, n, seen[v])
		}
		if !tried[v] {
			twice.add("%s: %s was popped and never added", where, v)
		}
	}
	missing := findings{}
	for _, v := range sorted(added) {
		if added[v] && popped[v] == 0 && seen[v] == 0 {
			missing.add("%s: %s was added, never popped, and is gone", where, v)
		}
		if seen[v] > 1 {
			twice.add("%s: %s is there %d times", where, v, seen[v])
		}
	}
	if len(missing) > openPops {
		*lost = append(*lost, missing...)
	}
}

// poppedValue is what LPOP, SPOP or BLPOP gave.
func poppedValue(answer any) string {
	if pair, ok := answer.([]any); ok && len(pair) == 2 {
		answer = pair[1]
	}
	text, _ := answer.(string)
	return text
}

// streamKept checks entries that are appended once.
func streamKept(where string, ops []nodeOp, there [][2]string, lost, twice *findings) {
	byID, times := map[string]string{}, map[string]int{}
	for _, e := range there {
		byID[e[0]] = e[1]
		times[e[1]]++
	}
	for _, op := range ops {
		if id, _ := op.answer.(string); op.outcome == answered && byID[id] != op.value {
			lost.add("%s: stream entry %s of %s is %q", where, id, op.value, byID[id])
		}
	}
	for _, v := range sorted(times) {
		if times[v] > 1 {
			twice.add("%s: %s is in the stream %d times", where, v, times[v])
		}
	}
}

// expired checks keys that are set once with a short life: once somebody was told that one is gone, nobody who
// asks later may be told that it is there, unless it was set again.
func (s *nodeStorm) expired(where string, wrong *findings) {
	byKey := map[string][]nodeOp{}
	for _, op := range s.ops {
		if strings.HasPrefix(op.kind, "exp") && op.outcome != refused {
			byKey[op.key] = append(byKey[op.key], op)
		}
	}
	for _, key := range sorted(byKey) {
		for _, op := range byKey[key] {
			value, _ := op.answer.(string)
			if op.kind == "expget" && op.outcome == answered && value != "" {
				backFromTheDead(where, op, value, byKey[key], wrong)
			}
		}
	}
}

// backFromTheDead: was the value that op read gone before op began? It was when, after it had been written,
// somebody read nothing.
func backFromTheDead(where string, op nodeOp, value string, all []nodeOp, wrong *findings) {
	var written time.Time
	for _, w := range all {
		if w.kind == "expire" && w.value == value && w.outcome == answered {
			written = w.ret
		}
	}
	if written.IsZero() {
		return // nobody knows when
	}
	for _, gone := range all {
		if gone.kind == "expget" && gone.outcome == answered && gone.answer == nil && gone.call.After(written) && gone.ret.Before(op.call) {
			wrong.add("%s: %s was gone, and then it was there again", where, op.key)
			return
		}
	}
}
