package drill

import (
	"fmt"
	"strings"
	"time"
)

// limitRule is a rule as its documentation has it. How the program counts it, the drill does not know.
type limitRule struct {
	name, algorithm string
	limit, burst    int64
	window, lease   time.Duration
	onError         string
}

// The rules of the drill, those of a rate first. Callers want more than each of them admits.
var limitRules = []limitRule{
	{name: "token", algorithm: "token-bucket", limit: 40, window: time.Second, burst: 8},
	{name: "leaky", algorithm: "leaky-bucket", limit: 40, window: time.Second, burst: 8},
	{name: "fixed", algorithm: "fixed-window", limit: 15, window: 500 * time.Millisecond},
	{name: "counter", algorithm: "sliding-counter", limit: 15, window: 500 * time.Millisecond},
	{name: "log", algorithm: "sliding-log", limit: 15, window: 500 * time.Millisecond},
	{name: ruleSlots, algorithm: "concurrency", limit: 6, lease: slotLease},
	{name: ruleOpen, algorithm: "token-bucket", limit: 40, window: time.Second, burst: 8, onError: "open"},
	{name: "shut", algorithm: "token-bucket", limit: 40, window: time.Second, burst: 8, onError: "closed"},
	{name: ruleWide, algorithm: "fixed-window", limit: plenty, window: longWindow, onError: "closed"},
	{name: ruleBrim, algorithm: "fixed-window", limit: 20, window: longWindow, onError: "closed"},
	{name: ruleHeld, algorithm: "fixed-window", limit: plenty, window: longWindow, onError: "closed"},
}

const (
	ruleSlots = "slots"
	ruleOpen  = "open"
	ruleWide  = "wide" // and
	ruleBrim  = "brim" // are asked together
	ruleHeld  = "held" // is for reservations

	slotLease  = 400 * time.Millisecond
	plenty     = 1_000_000
	longWindow = 365 * 24 * time.Hour
)

func ruleNamed(name string) limitRule {
	for _, r := range limitRules {
		if r.name == name {
			return r
		}
	}
	return limitRule{}
}

// limitFile is the rules as the program reads them.
func limitFile(rules []limitRule) string {
	var b strings.Builder
	b.WriteString("domain: drill\ndescriptors:\n")
	for _, r := range rules {
		fmt.Fprintf(&b, "  - key: %s\n    rate_limit: {algorithm: %s, requests_per_unit: %d", r.name, r.algorithm, r.limit)
		if r.window > 0 {
			fmt.Fprintf(&b, ", window: %s", r.window)
		}
		if r.burst > 0 {
			fmt.Fprintf(&b, ", burst: %d", r.burst)
		}
		if r.lease > 0 {
			fmt.Fprintf(&b, ", lease: %s", r.lease)
		}
		if r.onError != "" {
			fmt.Fprintf(&b, ", on_error: %s", r.onError)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// unit is the time of one unit of a bucket.
func (r limitRule) unit() time.Duration {
	w := r.window.Microseconds()
	return time.Duration((w+r.limit-1)/r.limit) * time.Microsecond
}

// bound is the algorithm's formula: how many units at most in an interval of length d, where no call wants more than
// biggest.
func (r limitRule) bound(biggest int64, d time.Duration) int64 {
	switch r.algorithm {
	case "token-bucket":
		return r.burst + int64(d/r.unit())
	case "leaky-bucket":
		return biggest + int64(d/r.unit())
	case "fixed-window":
		return r.limit * (int64((d+r.window-1)/r.window) + 1)
	case "sliding-counter":
		return r.limit + r.limit*d.Microseconds()/r.window.Microseconds()
	case "sliding-log":
		return r.limit * (int64(d/r.window) + 1)
	}
	panic("no formula for " + r.algorithm)
}

// onceMore is how many units more an interval can have when the store forgot within it.
func (r limitRule) onceMore(biggest int64) int64 {
	switch r.algorithm {
	case "token-bucket":
		return r.burst
	case "leaky-bucket": // turns that were given before, and turns from the beginning
		return biggest + r.burst
	}
	return r.limit
}

// admitted is a call that was, at some time between the question and the answer.
type admitted struct {
	from, to int64 // ns since 1970
	units    int64
	who      int
}

// clockTolerance is how much the clocks of one machine's processes, as they are read and rounded, may differ.
const clockTolerance = 3 * time.Millisecond

// exceeded looks at every interval that begins with a question and ends with an answer: what was asked and answered
// within it was admitted within it.
func (r limitRule) exceeded(all []admitted, w window) string {
	biggest := int64(0)
	for _, a := range all {
		biggest = max(biggest, a.units)
	}
	sortBy(all, func(a admitted) int64 { return a.to })
	for _, first := range all {
		sum := int64(0)
		for _, a := range all {
			if a.from < first.from {
				continue
			}
			sum += a.units
			length := time.Duration(a.to-first.from) + clockTolerance
			over := w.overlaps(time.Unix(0, first.from), time.Unix(0, a.to))
			if over {
				length += w.shifts
			}
			most := r.bound(biggest, length)
			if over && w.forgets {
				most += r.onceMore(biggest)
			}
			if sum > most {
				return fmt.Sprintf("%d units in %s, more than %d", sum, length, most)
			}
		}
	}
	return ""
}

// exceededByParts is exceeded for the turns of so many processes, of which each has its own line of them.
func (r limitRule) exceededByParts(all []admitted, parts int) string {
	r.window *= time.Duration(parts)
	for who := range parts {
		var own []admitted
		for _, a := range all {
			if a.who == who {
				own = append(own, a)
			}
		}
		if text := r.exceeded(own, window{}); text != "" {
			return fmt.Sprintf("process %d alone: %s", who, text)
		}
	}
	return ""
}

// overfilled looks at each window of a rule that counts by fixed ones: they begin at multiples of their length since 1970.
func (r limitRule) overfilled(all []admitted, w window) string {
	sums := map[int64]int64{}
	for _, a := range all {
		from, to := (a.from-int64(clockTolerance))/int64(r.window), (a.to+int64(clockTolerance))/int64(r.window)
		begin := time.Unix(0, from*int64(r.window))
		over := w.overlaps(begin.Add(-w.shifts), begin.Add(r.window))
		if from != to || over && w.shifts > 0 { // it can have been in another one
			continue
		}
		most := r.limit
		if over && w.forgets {
			most *= 2
		}
		if sums[from] += a.units; sums[from] > most {
			return fmt.Sprintf("more than %d units in the window that began at %s", most, begin.UTC().Format(time.RFC3339Nano))
		}
	}
	return ""
}

// slot is one that was surely held: from the answer until it was given back or its lease was over.
type slot struct {
	from, to int64 // ns since 1970
	who      int
}

// mostHeld is how many slots were held at once, at moments that count.
func mostHeld(all []slot, counts func(at int64) bool) (most int) {
	for _, moment := range all {
		n := 0
		for _, s := range all {
			if s.from <= moment.from && moment.from < s.to {
				n++
			}
		}
		if counts(moment.from) {
			most = max(most, n)
		}
	}
	return most
}
