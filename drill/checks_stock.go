package drill

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"time"
)

// neverOversoldByEvents reads the sale's own history: one event for each change, in one commit
// with it.
func neverOversoldByEvents(e *evidence) (wrong findings, looked string) {
	events := slices.Clone(e.Events)
	// Versions grow in the order of commits; the table's own order need not.
	sort.SliceStable(events, func(i, j int) bool { return events[i].Version < events[j].Version })
	for i, ev := range events {
		if ev.Version != int64(i) {
			wrong.add("event %d has version %d: one is missing or there twice", i, ev.Version)
			break
		}
		if ev.Stock != e.Stock || ev.Held < 0 || ev.Sold < 0 || ev.Held+ev.Sold > ev.Stock {
			wrong.add("version %d: sold %d + held %d of %d", ev.Version, ev.Sold, ev.Held, ev.Stock)
		}
		if i > 0 && !follows(events[i-1], ev) {
			wrong.add("version %d (%s %d) does not follow from the one before", ev.Version, ev.What, ev.Units)
		}
	}
	if n := len(events); n == 0 || events[n-1].Version != e.Sale.Version || events[n-1].Held != e.Sale.Held || events[n-1].Sold != e.Sale.Sold {
		wrong.add("the last of %d events is not what the sale's row says", n)
	}
	return wrong, fmt.Sprintf("%d events without a gap, none above %d", len(events), e.Stock)
}

// follows says whether an event's numbers are those before it changed by what it tells.
func follows(before, ev stockEvent) bool {
	held, sold := before.Held, before.Sold
	switch ev.What {
	case "held":
		held += ev.Units
	case "released", "expired":
		held -= ev.Units
	case "confirmed":
		held, sold = held-ev.Units, sold+ev.Units
	case "cancelled":
		sold -= ev.Units
	default:
		return false
	}
	return ev.Held == held && ev.Sold == sold
}

// change is one unit taken or given back at an instant.
type change struct {
	at int64
	by int64
}

// changes are the holds' beginnings and ends in the order of time. They were written while the
// sale's row was locked, so the order is that of the commits; at one instant an end comes first.
func changes(holds []holdRow) []change {
	var all []change
	for _, h := range holds {
		all = append(all, change{h.CreatedAt, +1})
		if at, ended := h.end(); ended {
			all = append(all, change{at, -1})
		}
	}
	sort.Slice(all, func(i, j int) bool {
		return all[i].at < all[j].at || (all[i].at == all[j].at && all[i].by < all[j].by)
	})
	return all
}

// most is the largest number of units taken at one instant.
func most(holds []holdRow) (units, at int64) {
	var taken int64
	for _, c := range changes(holds) {
		if taken += c.by; taken > units {
			units, at = taken, c.at
		}
	}
	return units, at
}

// neverOversoldByRows counts the holds themselves, and believes no counter.
func neverOversoldByRows(e *evidence) (wrong findings, looked string) {
	units, at := most(e.Holds)
	if units > e.Stock {
		wrong.add("%d units of %d were sold or held at %s", units, e.Stock, time.UnixMicro(at).UTC().Format(time.RFC3339Nano))
	}
	return wrong, fmt.Sprintf("%d holds, at most %d of %d at one instant", len(e.Holds), units, e.Stock)
}

// rowsAgree compares the counters with what they count.
func rowsAgree(e *evidence) (wrong findings, looked string) {
	states, taken := map[string]int64{}, map[string]int64{}
	for _, h := range e.Holds {
		states[h.State]++
		if _, ended := h.end(); !ended {
			taken[h.Buyer]++
		}
	}
	if e.Sale.Stock != e.Stock || e.Sale.Held != states["held"] || e.Sale.Sold != states["confirmed"] {
		wrong.add("the sale says held %d, sold %d of %d; its holds say %d and %d",
			e.Sale.Held, e.Sale.Sold, e.Sale.Stock, states["held"], states["confirmed"])
	}
	for _, b := range e.Buyers {
		if b.Taken != taken[b.Buyer] {
			wrong.add("buyer %s has %d units by the counter, %d by the holds", b.Buyer, b.Taken, taken[b.Buyer])
		}
		delete(taken, b.Buyer)
	}
	for _, buyer := range sorted(taken) {
		wrong.add("buyer %s has %d holds and no counter", buyer, taken[buyer])
	}
	orders := map[string]int64{}
	for _, o := range e.Orders {
		orders[o.State]++
	}
	if orders["confirmed"] != states["confirmed"] || orders["cancelled"] != states["cancelled"] {
		wrong.add("%d orders are confirmed and %d cancelled; of the holds %d and %d",
			orders["confirmed"], orders["cancelled"], states["confirmed"], states["cancelled"])
	}
	return wrong, fmt.Sprintf("held %d, sold %d, %d buyers, %d orders", e.Sale.Held, e.Sale.Sold, len(e.Buyers), len(e.Orders))
}

// limitsKept replays each buyer's holds.
func limitsKept(e *evidence) (wrong findings, looked string) {
	by := map[string][]holdRow{}
	for _, h := range e.Holds {
		by[h.Buyer] = append(by[h.Buyer], h)
	}
	for _, buyer := range sorted(by) {
		if units, _ := most(by[buyer]); units > e.PerBuyer {
			wrong.add("buyer %s had %d units at once, the limit is %d", buyer, units, e.PerBuyer)
		}
	}
	return wrong, fmt.Sprintf("%d buyers, none had more than %d", len(by), e.PerBuyer)
}

// everythingSold: as long as somebody wants one, no unit stays.
func everythingSold(e *evidence) (wrong findings, looked string) {
	if e.Sale.Held != 0 {
		wrong.add("%d units are still held", e.Sale.Held)
	}
	if e.Demand > 0 && e.Sale.Sold != e.Stock {
		wrong.add("%d of %d units were sold, and buyers wanted %d more", e.Sale.Sold, e.Stock, e.Demand)
	}
	if e.Demand == 0 {
		return wrong, fmt.Sprintf("sold %d of %d to all who wanted one", e.Sale.Sold, e.Stock)
	}
	return wrong, fmt.Sprintf("sold %d of %d; buyers wanted %d more", e.Sale.Sold, e.Stock, e.Demand)
}

// backWithin is how late a unit may come back, with a server there to do it.
const backWithin = 2 * time.Second

// backAfter is how long after an outage units are back whose holds ended in it, or soon after it.
const backAfter = 3 * time.Second

// unitsCameBack looks at the holds that nobody paid for.
func unitsCameBack(e *evidence) (wrong findings, looked string) {
	var worst int64
	n := 0
	for _, h := range e.Holds {
		if h.State == "held" && e.Stopping > e.dueBack(h.ExpiresAt) {
			wrong.add("hold %s ended at %s and is held still", h.ID, time.UnixMicro(h.ExpiresAt).UTC().Format(time.RFC3339Nano))
		}
		if h.State != "expired" {
			continue
		}
		n++
		worst = max(worst, h.ChangedAt-h.ExpiresAt)
		if until := e.dueBack(h.ExpiresAt); h.ChangedAt > until {
			wrong.add("hold %s came back %s late", h.ID, time.Duration(h.ChangedAt-h.ExpiresAt)*time.Microsecond)
		}
	}
	return wrong, fmt.Sprintf("%d holds expired, the slowest came back after %s", n, (time.Duration(worst) * time.Microsecond).Round(time.Millisecond))
}

// dueBack is until when a unit whose hold ends at t has to be back: time in which no server was
// up or the database was away, or could not sync, does not count. A store that is away changes nothing.
func (e *evidence) dueBack(t int64) int64 {
	until := t + backWithin.Microseconds()
	for _, gap := range e.noService() {
		if t < gap.to+(backAfter-backWithin).Microseconds() && until > gap.from {
			until = max(until, gap.to+backAfter.Microseconds())
		}
	}
	return until
}

type span struct{ from, to int64 }

// noService are the times in which no unit could come back, by their beginnings.
func (e *evidence) noService() []span {
	gaps := e.allDown()
	for _, o := range e.Outages {
		if o.Fault == FaultStopDB || o.Fault == FaultCrowdDB || o.Fault == FaultSlowDisk {
			gaps = append(gaps, span{o.Down, o.Up})
		}
	}
	slices.SortFunc(gaps, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	return gaps
}

// allDown are the times in which no server was up.
func (e *evidence) allDown() []span {
	gaps := []span{{0, 1<<63 - 1}}
	for s := range e.Counts["servers"] {
		var both []span
		for _, a := range gaps {
			for _, o := range e.Outages {
				if o.Fault != FaultKillServer || o.Server != s {
					continue
				}
				if from, to := max(a.from, o.Down), min(a.to, o.Up); from < to {
					both = append(both, span{from, to})
				}
			}
		}
		gaps = both
	}
	return gaps
}
