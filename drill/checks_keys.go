package drill

import (
	"fmt"
	"net/http"
	"time"
)

// holdsKept: what a client was told of a hold is what the row says.
func holdsKept(e *evidence) (wrong findings, looked string) {
	rows := map[string]holdRow{}
	for _, h := range e.Holds {
		rows[h.ID] = h
		wrong = append(wrong, e.endedRightly(h)...)
	}
	n := 0
	for _, k := range e.Keys {
		body, ok := k.told()
		if k.Kind != kindHold || !ok {
			continue
		}
		n++
		t := parse[holdTold](body)
		h, ok := rows[t.ID]
		switch {
		case !ok:
			wrong.add("buyer %s was told of hold %q, and it is not there", k.Buyer, t.ID)
		case h.Buyer != k.Buyer || t.Buyer != k.Buyer || h.Sale != t.Sale || t.Price != e.Price || t.Currency != e.Currency ||
			h.CreatedAt != t.CreatedAt.UnixMicro() || t.State != "held":
			wrong.add("hold %s is not what buyer %s was told", t.ID, k.Buyer)
		case t.ExpiresAt.Sub(t.CreatedAt) < e.HoldTime || h.ExpiresAt < t.ExpiresAt.UnixMicro():
			wrong.add("hold %s has less time than was promised", t.ID)
		}
	}
	return wrong, fmt.Sprintf("%d holds are what their buyers were told", n)
}

// endedRightly: a hold ends because its time is over, because it was released, or is an order.
func (e *evidence) endedRightly(h holdRow) (wrong findings) {
	answered, released := e.Released[h.ID]
	switch {
	case h.State == "expired" && h.ChangedAt < h.ExpiresAt:
		wrong.add("hold %s expired before its time", h.ID)
	case h.State == "released" && !released:
		wrong.add("hold %s was released, and nobody had asked for that", h.ID)
	case answered && (h.State == "held" || h.State == "confirmed"):
		wrong.add("hold %s was released by its buyer and is %s", h.ID, h.State)
	}
	return wrong
}

// paymentsKept: what clients were told of payments and orders is what the rows say.
func paymentsKept(e *evidence) (wrong findings, looked string) {
	rows, orders := map[string]paymentRow{}, map[string]orderRow{}
	for _, p := range e.Payments {
		rows[p.ID] = p
	}
	for _, o := range e.Orders {
		orders[o.ID] = o
	}
	n := 0
	for _, k := range e.Keys {
		body, ok := k.told()
		if k.Kind != kindPayment || !ok {
			continue
		}
		n++
		t := parse[paymentTold](body)
		p, ok := rows[t.ID]
		if !ok || p.Hold != k.Hold || p.Buyer != k.Buyer || p.Amount != e.Price || p.Currency != e.Currency ||
			t.Hold != k.Hold || t.Buyer != k.Buyer || t.Amount != e.Price || t.Currency != e.Currency {
			wrong.add("payment %q of buyer %s is not there or not what was accepted", t.ID, k.Buyer)
		}
	}
	for _, t := range e.Finals {
		if p := rows[t.ID]; p.State != t.State || p.Order != t.Order {
			wrong.add("payment %s was shown as %s with order %q, and is %s with %q", t.ID, t.State, t.Order, p.State, p.Order)
		}
	}
	for _, t := range e.Orderings {
		o := orders[t.ID]
		if o.State != t.State || o.Hold != t.Hold || o.Buyer != t.Buyer || o.Payment != t.Payment || o.Amount != t.Amount || o.Currency != t.Currency {
			wrong.add("order %q is not what buyer %s was shown", t.ID, t.Buyer)
		}
	}
	return wrong, fmt.Sprintf("%d payments, %d of them seen to their end, %d orders", n, len(e.Finals), len(e.Orderings))
}

// oneEffectPerKey finds for every hold and payment the one key that asked for it.
func oneEffectPerKey(e *evidence) (wrong findings, looked string) {
	answers := map[string]string{}
	for _, a := range e.Answers {
		answers[a.Scope] = parse[struct{ ID string }](a.Answer).ID
	}
	holds, payments := map[string]int{}, map[string]int{} // by id: keys that own it
	permits := map[string]int{}
	for _, k := range e.Keys {
		id := answers[k.stored(e.Caller)]
		told := map[string]bool{}
		for _, a := range k.Answers {
			if a.success() {
				told[parse[struct{ ID string }](a.Body).ID] = true
			}
		}
		if len(told) > 1 {
			wrong.add("one key of buyer %s gave %d %ss", k.Buyer, len(told), k.Kind)
		}
		if len(told) == 1 && !told[id] {
			wrong.add("the stored answer of a key of buyer %s is not what was answered", k.Buyer)
		}
		if k.Kind == kindHold {
			holds[id]++
			permits[k.permit(e.Caller)] = 0
		} else {
			payments[id]++
		}
	}
	for _, h := range e.Holds {
		n, known := permits[h.Permit]
		if permits[h.Permit] = n + 1; !known || n > 0 || holds[h.ID] != 1 {
			wrong.add("hold %s of buyer %s has not one key of its own", h.ID, h.Buyer)
		}
	}
	for _, p := range e.Payments {
		if payments[p.ID] != 1 {
			wrong.add("payment %s of buyer %s has not one key of its own", p.ID, p.Buyer)
		}
	}
	return wrong, fmt.Sprintf("%d keys, %d holds, %d payments", len(e.Keys), len(e.Holds), len(e.Payments))
}

// markAge is how long after a success a repeat may still hear "sold out": the age that the
// servers' mark may have, and a little for clocks that are read at different moments.
const markAge = 150 * time.Millisecond

// sameBytes: whoever repeats a request that had succeeded gets the same answer, and everything
// that succeeded was repeated.
func sameBytes(e *evidence) (wrong findings, looked string) {
	repeats, young := 0, 0
	for _, k := range e.Keys {
		first, ok := k.told()
		if !ok {
			continue
		}
		for _, a := range k.Answers {
			switch {
			case a.success() && a.Body == first:
				repeats++
			case a.success():
				wrong.add("a repeat of buyer %s's %s got other bytes", k.Buyer, k.Kind)
			case a.retry() || e.forgotten(a):
				young++
			default:
				wrong.add("a repeat of buyer %s's %s got %d %s, %s after the success", k.Buyer, k.Kind, a.Status, a.Problem, a.After)
			}
		}
		repeats-- // the first one
		if last := k.Answers[len(k.Answers)-1]; !last.success() || last.After < 0 {
			wrong.add("buyer %s's %s was not answered again in the end", k.Buyer, k.Kind)
		}
	}
	return wrong, fmt.Sprintf("%d repeats got the same bytes; %d were told to try again", repeats, young)
}

// retry says whether a repeat may get this answer instead of the first one: the server asked to
// come again, or its mark was older than the success.
func (a keyAnswer) retry() bool {
	return a.Status == http.StatusServiceUnavailable || a.Problem == "in-flight" || (a.Problem == "sold-out" && a.After < markAge)
}

// rememberWithin is how long after the store is back a repeat may still hear "sold out": until then
// every process has told the store of the holds that it had forgotten.
const rememberWithin = time.Second

// forgotten says whether a repeat may have met a store that had forgotten its permit, and was not
// told of it yet: the store was emptied, or lost what it had, and it is not long ago or it was away
// since.
func (e *evidence) forgotten(a keyAnswer) bool {
	if a.Problem != "sold-out" && a.Problem != otherBody+"sold-out" {
		return false
	}
	lost := false
	for _, o := range e.Outages { // in the order of time
		switch {
		case o.Fault == FaultFlushStore, o.Fault == FaultKillStore && (e.Marks == nil || !e.Marks.Promised):
			lost = true
		case o.Fault != FaultKillStore && o.Fault != FaultPauseStore:
			continue
		}
		if lost && a.Sent >= o.Down && a.Sent <= o.Up+rememberWithin.Microseconds() {
			return true
		}
	}
	return false
}
