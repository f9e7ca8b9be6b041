package drill

import (
	"fmt"
	"time"
)

// never is the deadline of a permit that does not lapse.
const never = 1<<53 - 1

// permitLife is how long a permit without a row may live, with a margin: what was asked for
// shortly before the end may still have one.
const permitLife = 6 * time.Second

// permitsAgree compares the store with SQL.
func permitsAgree(e *evidence) (wrong findings, looked string) {
	if !e.StoreRead {
		return nil, "not looked at: mem: ends with its server"
	}
	states := map[string]string{}
	for _, h := range e.Holds {
		states[h.Permit] = h.State
		if deadline, ok := e.Permits[h.Permit]; h.State == "confirmed" && (!ok || deadline != never) {
			wrong.add("hold %s is sold, and its permit can lapse", h.ID)
		}
	}
	kept, lapsing := 0, 0
	for _, id := range sorted(e.Permits) {
		deadline, state := e.Permits[id], states[id]
		switch {
		case deadline == never && state != "confirmed":
			wrong.add("permit %s never lapses, and its hold is %q", id, state)
		case deadline == never:
			kept++
		case deadline > e.StoreNow && state != "held" && deadline > e.LastAsked+permitLife.Microseconds():
			wrong.add("permit %s lives on, and its hold is %q", id, state)
		default:
			lapsing++
		}
	}
	return wrong, fmt.Sprintf("%d permits of sold units stay, %d lapse", kept, lapsing)
}

// serversAnsweredWell: every answer was one of those that the API names, and every server ended
// as it was told to.
func serversAnsweredWell(e *evidence) (wrong findings, looked string) {
	for _, exit := range e.Exits {
		wrong.add("%s", exit)
	}
	total := 0
	for _, name := range sorted(e.Counts) {
		var status int
		var problem string
		if n, _ := fmt.Sscanf(name, "answer %d %s", &status, &problem); n == 0 {
			continue
		}
		total += e.Counts[name]
		if !expected(status, problem) {
			wrong.add("%d times %s", e.Counts[name], name)
		}
	}
	for _, name := range []string{didNotSay, didWait} {
		if e.Counts[name] > 0 {
			wrong.add("%d %s", e.Counts[name], name)
		}
	}
	return wrong, fmt.Sprintf("%d answers of the kinds that the API names; servers ended cleanly", total)
}

// expected are the answers that a client of this storm may get.
func expected(status int, problem string) bool {
	switch status {
	case 200, 201, 202, 204:
		return true
	case 503:
		return problem != orPlain("") // it says what is gone
	case 409:
		switch problem {
		case "sold-out", "limit", "in-flight", "hold-gone", "hold-paid":
			return true
		}
	case 422:
		return problem == "key-reused"
	}
	return false
}

// What no client may meet.
const (
	didNotSay = "answers 503 without Retry-After"
	didWait   = "requests without an answer in time"
)

// What is counted of the storm, by these names.
const (
	didDuplicates = "duplicates"
	didCuts       = "cut connections"
	didRetries    = "retries after a cut"
	didVanish     = "vanished buyers"
	didRelease    = "released holds"
	didBeyond     = "requests beyond the limit"
	didLimit      = "refusals by the limit"
	didReuse      = "keys with another body"
	didTwoKeys    = "holds paid with two keys"
	didRepeats    = "repeats after the storm"
)

// minima are what must have happened at least, by the size of the sale. All but the last kinds
// hang on holds, which are dealt a card each; decks have 20 cards.
func (e *evidence) minima() map[string]int {
	n := min(int(e.Stock), e.Counts["buyers"])
	decks := n / 20
	want := map[string]int{
		didDuplicates: 2 * decks, didCuts: 2 * decks, didRetries: 2 * decks,
		didVanish: decks, didRelease: decks, didReuse: decks, didTwoKeys: decks,
		didBeyond: e.Counts["scouts"], didLimit: e.Counts["scouts"], didRepeats: n / 2,
	}
	if n > 0 {
		want["holds"], want["captured payments"] = max(1, n/2), max(1, n/2)
	}
	return want
}

// stormHappened: a drill without a storm proves nothing.
func stormHappened(e *evidence) (wrong findings, looked string) {
	want := e.minima()
	for _, name := range sorted(want) {
		if e.Counts[name] < want[name] {
			wrong.add("%d %s, the storm should have had %d", e.Counts[name], name, want[name])
		}
	}
	hits, all := map[string]int{}, 0
	for _, o := range e.Outages {
		if o.Hit && o.InFlight > 0 && o.Up > o.Down {
			hits[o.Fault]++
			all++
		}
	}
	for _, kind := range sorted(e.FaultsWant) {
		if hits[kind] < e.FaultsWant[kind] {
			wrong.add("%d of %d times %s hit while requests were on their way", hits[kind], e.FaultsWant[kind], kind)
		}
	}
	faults := 0
	for _, name := range sorted(e.Rates) {
		least := e.Rates[name] * (e.provided(name) / 100)
		if faults += e.Dealt[name]; e.Dealt[name] < least {
			wrong.add("the provider had the fault %s %d times, not %d", name, e.Dealt[name], least)
		}
	}
	return wrong, fmt.Sprintf("%d faults, %d provider faults, %d duplicates, %d cuts, %d vanished, %d beyond the limit",
		all, faults, e.Counts[didDuplicates], e.Counts[didCuts], e.Counts[didVanish], e.Counts[didBeyond])
}

// provided is at how many requests the provider can have dealt a fault, at least: every effect
// in its log was a request, and some faults concern authorisations alone.
func (e *evidence) provided(fault string) (n int) {
	ofAuthorisations := fault == "refuse_auth" || fault == "refuse_capture" || fault == "capture_at_once"
	for _, l := range e.Provider {
		if !ofAuthorisations || l.Op == "authorise" {
			n++
		}
	}
	return n
}
