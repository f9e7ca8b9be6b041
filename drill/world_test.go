package drill

import (
	"encoding/json"
	"fmt"
	"time"
)

// world is a small sale in which everything goes right, for the checks to look at.
type world struct {
	e   *evidence
	now int64 // µs
	ids int
	at  map[string]int // holds by id
}

const worldStart = 1_700_000_000_000_000

func newWorld(stock int64) *world {
	e := &evidence{
		Stock: stock, PerBuyer: 2, HoldTime: 4 * time.Second, Price: price, Currency: currency,
		SaleID: "drill-1", Caller: caller, StoreRead: true, Permits: map[string]int64{},
		Released: map[string]bool{}, Counts: map[string]int{}, Rates: rates, Dealt: map[string]int{},
	}
	e.Sale.Stock = stock
	e.Events = []stockEvent{{Stock: stock, What: "created"}}
	w := &world{e: e, now: worldStart, at: map[string]int{}}
	for _, a := range []string{"provider", "clearing", "merchant"} {
		e.Accounts = append(e.Accounts, accountRow{ID: a + ":" + currency, Currency: currency})
	}
	return w
}

func (w *world) id(kind string) string { w.ids++; return fmt.Sprintf("%s-%03d", kind, w.ids) }

func (w *world) event(what string, held, sold int64) {
	w.now += 1000
	s := &w.e.Sale
	s.Held, s.Sold, s.Version = s.Held+held, s.Sold+sold, s.Version+1
	w.e.Events = append(w.e.Events, stockEvent{s.Stock, s.Held, s.Sold, s.Version, what, 1})
}

func (w *world) taken(buyer string, by int64) {
	for i := range w.e.Buyers {
		if w.e.Buyers[i].Buyer == buyer {
			w.e.Buyers[i].Taken += by
			return
		}
	}
	w.e.Buyers = append(w.e.Buyers, buyerRow{buyer, by, w.e.PerBuyer})
}

// keyed adds a key that was answered with v, and once more with the same bytes.
func (w *world) keyed(kind, path, buyer, hold string, status int, v any) *keyed {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	k := &keyed{Kind: kind, Path: path, Key: w.id("key"), Buyer: buyer, Hold: hold}
	k.Answers = []keyAnswer{
		{Status: status, Body: string(data), After: -1},
		{Status: 409, Problem: "sold-out", After: 20 * time.Millisecond},
		{Status: status, Body: string(data), After: time.Second},
	}
	w.e.Keys = append(w.e.Keys, k)
	w.e.Answers = append(w.e.Answers, storedAnswer{k.stored(caller), string(data)})
	return k
}

func (w *world) hold(buyer string) string {
	w.event("held", 1, 0)
	w.taken(buyer, 1)
	id, ends := w.id("hold"), w.now+w.e.HoldTime.Microseconds()
	k := w.keyed(kindHold, "/v1/sales/drill-1/holds", buyer, "", 201, holdTold{
		id, w.e.SaleID, buyer, "held", price, currency, time.UnixMicro(ends).UTC(), time.UnixMicro(w.now).UTC(),
	})
	w.at[id] = len(w.e.Holds)
	w.e.Holds = append(w.e.Holds, holdRow{id, w.e.SaleID, buyer, k.permit(caller), "held", "", w.now, ends, w.now})
	return id
}

// end ends a hold that was not paid for.
func (w *world) end(id, state string, at int64) {
	h := &w.e.Holds[w.at[id]]
	w.event(state, -1, 0)
	w.taken(h.Buyer, -1)
	h.State, h.ChangedAt = state, max(at, w.now)
	w.now = h.ChangedAt
	if state == "released" {
		w.e.Released[id] = true
	}
}

func (w *world) entries(transfer, step, debit, credit string) {
	w.e.Entries = append(w.e.Entries,
		entryRow{transfer, step, debit + ":" + currency, price}, entryRow{transfer, step, credit + ":" + currency, -price})
	for i := range w.e.Accounts {
		switch w.e.Accounts[i].ID {
		case debit + ":" + currency:
			w.e.Accounts[i].PostedDebits += price
		case credit + ":" + currency:
			w.e.Accounts[i].PostedCredits += price
		}
	}
}

func (w *world) provider(op, ref, outcome string) {
	w.e.Provider = append(w.e.Provider, providerLine{op, ref, price, currency, outcome})
}

// pay sells a held unit. Its outcome is captured, or failed after the order was made.
func (w *world) pay(hold, outcome string) {
	h := &w.e.Holds[w.at[hold]]
	id, order := w.id("payment"), w.id("order")
	w.keyed(kindPayment, "/v1/payments", h.Buyer, hold, 202, paymentTold{id, hold, h.Buyer, price, currency, "pending", ""})
	w.provider("authorise", id, "authorised")
	w.event("confirmed", -1, 1)
	w.entries(id, id+":post", "provider", "clearing")
	h.State, h.Payment, h.ChangedAt = "confirmed", id, w.now
	o := orderRow{order, hold, h.Buyer, id, currency, "confirmed", price}
	if outcome == "captured" {
		w.provider("capture", id, "captured")
		w.entries(id+":capture", id+":capture", "clearing", "merchant")
		w.e.Permits[h.Permit] = never
		w.e.Orderings = append(w.e.Orderings, orderTold{order, hold, h.Buyer, id, price, currency, "confirmed"})
	} else {
		w.provider("void", id, "voided")
		w.entries(id, id+":refund", "clearing", "provider")
		w.event("cancelled", 0, -1)
		w.taken(h.Buyer, -1)
		h.State, h.ChangedAt, o.State = "cancelled", w.now, "cancelled"
	}
	w.e.Orders = append(w.e.Orders, o)
	w.e.Payments = append(w.e.Payments, paymentRow{id, hold, h.Buyer, currency, outcome, order, "", price})
	w.e.Transfers = append(w.e.Transfers, transferRow{id, "posted"}, transferRow{id + ":capture", "posted"})
	w.e.Finals = append(w.e.Finals, paymentTold{id, hold, h.Buyer, price, currency, outcome, order})
}

// goodEvidence is of a sale of 40 units with everything in it, in which all went right.
func goodEvidence() *evidence {
	w := newWorld(40)
	e := w.e
	vanished, released, cancelled := w.hold("buyer-v"), w.hold("buyer-r"), w.hold("buyer-c")
	w.end(released, "released", 0)
	w.pay(cancelled, "failed")
	for i := range 39 {
		w.pay(w.hold(fmt.Sprintf("buyer-%d", i/2)), "captured")
	}
	w.end(vanished, "expired", e.Holds[w.at[vanished]].ExpiresAt+200_000)
	w.pay(w.hold("buyer-last"), "captured")

	e.Demand, e.Marks = 7, &marked{Promised: true, Acked: 100}
	e.StoreNow, e.LastAsked = w.now+1_000_000, w.now
	e.Permits["lapsing"] = w.now + 2_000_000 // of a request that was refused a moment ago
	for range 2 {
		var s stream
		for i, ev := range e.Events {
			if i%3 == 0 || i == len(e.Events)-1 { // changes that come together are one state
				s.Connections = 1 + i/60
				s.Events = append(s.Events, streamed{s.Connections, ev})
			}
		}
		e.Streams = append(e.Streams, s)
	}
	// Long after the sale, so that no unit has an excuse.
	e.FaultsWant = map[string]int{}
	for i, kind := range Faults {
		down := w.now + int64(i)*10_000_000
		up := down + 300_000
		e.FaultsWant[kind] = 1
		e.Outages = append(e.Outages, outage{
			Fault: kind, Down: down, Up: up, InFlight: 3, Hit: true, Success: []int64{up + 100_000, up + 4_900_000},
		})
	}
	for name, n := range e.minima() {
		e.Counts[name] = n
	}
	for name, n := range map[string]int{
		"buyers": 100, "servers": 2, "scouts": 1, didBeyond: 1, didLimit: 1, "answer 201 ok": 41, "answer 409 sold-out": 900,
		"answer 422 key-reused": 4, "answer 503 busy": 2, "no answer": 3,
	} {
		e.Counts[name] = n
	}
	for name, n := range e.minima() {
		e.Counts[name] = max(e.Counts[name], n)
	}
	for name := range rates {
		e.Dealt[name] = 1
	}
	return e
}
