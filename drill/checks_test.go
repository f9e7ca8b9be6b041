package drill

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestGoodEvidencePasses(t *testing.T) {
	checks, verdict := judge(goodEvidence())
	for _, c := range checks {
		if !c.OK {
			t.Errorf("%s: %s", c.Name, c.Detail)
		}
		if c.Detail == "" {
			t.Errorf("%s does not say what it looked at", c.Name)
		}
	}
	if verdict != Pass {
		t.Errorf("verdict %s", verdict)
	}
}

// one finds the first element for which is says yes.
func one[T any](t *testing.T, all []T, is func(T) bool) *T {
	t.Helper()
	i := slices.IndexFunc(all, is)
	if i < 0 {
		t.Fatal("the good evidence lacks what this case needs")
	}
	return &all[i]
}

func holdIn(t *testing.T, e *evidence, state string) *holdRow {
	t.Helper()
	return one(t, e.Holds, func(h holdRow) bool { return h.State == state })
}

func paymentIn(t *testing.T, e *evidence, state string) *paymentRow {
	t.Helper()
	return one(t, e.Payments, func(p paymentRow) bool { return p.State == state })
}

func outageOf(t *testing.T, e *evidence, fault string) *outage {
	t.Helper()
	return one(t, e.Outages, func(o outage) bool { return o.Fault == fault })
}

func keyOf(t *testing.T, e *evidence, kind string) *keyed {
	t.Helper()
	return *one(t, e.Keys, func(k *keyed) bool { return k.Kind == kind })
}

// Each case does to good evidence what one broken promise would have done, and names a check
// that has to see it.
var violations = []struct {
	check, what string
	tamper      func(t *testing.T, e *evidence)
}{
	{"never-oversold-by-events", "one unit too many", func(_ *testing.T, e *evidence) { e.Events[20].Held += 40 }},
	{"never-oversold-by-events", "a negative number", func(_ *testing.T, e *evidence) { e.Events[20].Held = -1 }},
	{"never-oversold-by-events", "an event is missing", func(_ *testing.T, e *evidence) { e.Events = slices.Delete(e.Events, 5, 6) }},
	{"never-oversold-by-events", "an event is there twice", func(_ *testing.T, e *evidence) { e.Events = slices.Insert(e.Events, 5, e.Events[5]) }},
	{"never-oversold-by-events", "the last event is missing", func(_ *testing.T, e *evidence) { e.Events = e.Events[:len(e.Events)-1] }},
	{"never-oversold-by-events", "no event at all", func(_ *testing.T, e *evidence) { e.Events = nil }},
	{"never-oversold-by-events", "a unit changes without being told", func(_ *testing.T, e *evidence) { e.Events[9].What = "released" }},
	{"never-oversold-by-rows", "a unit was given away before it came back", func(t *testing.T, e *evidence) {
		h := holdIn(t, e, "expired")
		for i := range e.Holds {
			e.Holds[i].CreatedAt = min(e.Holds[i].CreatedAt, h.ChangedAt-1)
		}
	}},
	{"never-oversold-by-rows", "one hold more than units", func(t *testing.T, e *evidence) {
		for range 2 {
			e.Holds = append(e.Holds, holdRow{ID: "extra", State: "held", CreatedAt: e.LastAsked})
		}
	}},
	{"rows-agree", "a hold nobody counted", func(t *testing.T, e *evidence) { e.Holds = append(e.Holds, holdRow{State: "held"}) }},
	{"rows-agree", "a counter too high", func(_ *testing.T, e *evidence) { e.Sale.Sold++ }},
	{"rows-agree", "a buyer's counter too low", func(_ *testing.T, e *evidence) { e.Buyers[4].Taken-- }},
	{"rows-agree", "an order is missing", func(_ *testing.T, e *evidence) { e.Orders = e.Orders[1:] }},
	{"limits-kept", "a buyer with three units", func(t *testing.T, e *evidence) {
		for i := range 3 {
			e.Holds[len(e.Holds)-1-i].Buyer = "greedy"
		}
	}},
	{"holds-kept", "a hold is lost", func(t *testing.T, e *evidence) { e.Holds = e.Holds[1:] }},
	{"holds-kept", "a hold is somebody else's", func(_ *testing.T, e *evidence) { e.Holds[3].Buyer = "buyer-x" }},
	{"holds-kept", "a hold was shortened", func(_ *testing.T, e *evidence) { e.Holds[3].ExpiresAt -= 1 }},
	{"holds-kept", "a hold expired too early", func(t *testing.T, e *evidence) { h := holdIn(t, e, "expired"); h.ChangedAt = h.ExpiresAt - 1 }},
	{"holds-kept", "released unasked", func(_ *testing.T, e *evidence) { clear(e.Released) }},
	{"holds-kept", "released and sold", func(t *testing.T, e *evidence) { e.Released[holdIn(t, e, "confirmed").ID] = true }},
	{"payments-kept", "a payment is lost", func(_ *testing.T, e *evidence) { e.Payments = e.Payments[1:] }},
	{"payments-kept", "another amount", func(_ *testing.T, e *evidence) { e.Payments[2].Amount++ }},
	{"payments-kept", "went on after its end", func(t *testing.T, e *evidence) { paymentIn(t, e, "failed").State = "refunded" }},
	{"payments-kept", "an order is another's", func(_ *testing.T, e *evidence) { e.Orders[3].Buyer = "buyer-x" }},
	{"payments-kept", "an order that was shown is lost", func(_ *testing.T, e *evidence) { e.Orders = e.Orders[:len(e.Orders)-1] }},
	{"one-effect-per-key", "two holds told for one key", func(t *testing.T, e *evidence) {
		k := keyOf(t, e, kindHold)
		k.Answers = append(k.Answers, keyAnswer{Status: 201, Body: `{"id":"another"}`})
	}},
	{"one-effect-per-key", "two holds with one permit", func(_ *testing.T, e *evidence) { e.Holds[5].Permit = e.Holds[6].Permit }},
	{"one-effect-per-key", "a hold that no client asked for", func(_ *testing.T, e *evidence) { e.Holds[5].Permit = "unknown" }},
	{"one-effect-per-key", "a payment that no key owns", func(_ *testing.T, e *evidence) {
		e.Payments = append(e.Payments, paymentRow{ID: "extra", State: "failed"})
	}},
	{"one-effect-per-key", "no answer was stored", func(_ *testing.T, e *evidence) { e.Answers = e.Answers[1:] }},
	{"same-bytes", "a repeat with other bytes", func(t *testing.T, e *evidence) { keyOf(t, e, kindHold).Answers[2].Body += " " }},
	{"same-bytes", "sold out, long after the success", func(t *testing.T, e *evidence) { keyOf(t, e, kindHold).Answers[1].After = time.Second }},
	{"same-bytes", "sold out, long after the store had forgotten", func(t *testing.T, e *evidence) {
		e.Outages = []outage{{Fault: FaultFlushStore, Down: 1_000_000, Up: 1_100_000}, {Fault: FaultStopDB, Down: 3_000_000, Up: 4_000_000}}
		a := &keyOf(t, e, kindHold).Answers[1]
		a.Problem, a.Status, a.After, a.Sent = "sold-out", 409, time.Second, 3_500_000
	}},
	{"same-bytes", "sold out, and the store had forgotten nothing", func(t *testing.T, e *evidence) {
		e.Outages, e.Marks = []outage{{Fault: FaultKillStore, Down: 1_000_000, Up: 2_000_000}}, &marked{Promised: true}
		a := &keyOf(t, e, kindHold).Answers[1]
		a.Problem, a.Status, a.After, a.Sent = "sold-out", 409, time.Second, 1_500_000
	}},
	{"same-bytes", "never answered again", func(t *testing.T, e *evidence) { k := keyOf(t, e, kindPayment); k.Answers = k.Answers[:1] }},
	{"same-bytes", "told to come again for ever", func(t *testing.T, e *evidence) {
		k := keyOf(t, e, kindPayment)
		k.Answers = append(k.Answers, keyAnswer{Status: 409, Problem: "in-flight", After: time.Minute})
	}},
	{"same-bytes", "another body was accepted", func(t *testing.T, e *evidence) {
		k := keyOf(t, e, kindHold)
		k.firstAt = time.Now()
		k.note(reply{status: 409, problem: "other body: limit", sent: k.firstAt})
	}},
	{"orders-are-paid", "an order without a payment", func(t *testing.T, e *evidence) { paymentIn(t, e, "captured").State = "voided" }},
	{"orders-are-paid", "a captured payment without an order", func(t *testing.T, e *evidence) { paymentIn(t, e, "captured").Order = "none" }},
	{"orders-are-paid", "two payments for one order", func(t *testing.T, e *evidence) { e.Payments = append(e.Payments, *paymentIn(t, e, "captured")) }},
	{"orders-are-paid", "a payment that never ended", func(t *testing.T, e *evidence) { paymentIn(t, e, "failed").State = "authorised" }},
	{"orders-are-paid", "a cancelled order that was captured", func(t *testing.T, e *evidence) { paymentIn(t, e, "failed").State = "captured" }},
	{"provider-agrees", "captured twice", func(t *testing.T, e *evidence) {
		e.Provider = append(e.Provider, *one(t, e.Provider, func(l providerLine) bool { return l.Op == "capture" }))
	}},
	{"provider-agrees", "authorised twice", func(_ *testing.T, e *evidence) { e.Provider = slices.Insert(e.Provider, 0, e.Provider[0]) }},
	{"provider-agrees", "an orphan is left authorised", func(_ *testing.T, e *evidence) {
		e.Provider = append(e.Provider, providerLine{"authorise", "orphan", price, currency, "authorised"})
	}},
	{"provider-agrees", "captured and nobody knows", func(_ *testing.T, e *evidence) {
		e.Provider = append(e.Provider, providerLine{"authorise", "orphan", price, currency, "captured"})
	}},
	{"provider-agrees", "captured in SQL only", func(_ *testing.T, e *evidence) {
		e.Provider = slices.DeleteFunc(e.Provider, func(l providerLine) bool { return l.Op == "capture" })
	}},
	{"provider-agrees", "another amount", func(_ *testing.T, e *evidence) { e.Provider[0].Amount++ }},
	{"provider-agrees", "refunded, and sold in SQL", func(t *testing.T, e *evidence) {
		e.Provider = append(e.Provider, providerLine{"refund", paymentIn(t, e, "captured").ID, price, currency, "refunded"})
	}},
	{"ledger-balances", "an entry is missing", func(_ *testing.T, e *evidence) { e.Entries = e.Entries[1:] }},
	{"ledger-balances", "a balance is off", func(_ *testing.T, e *evidence) { e.Accounts[1].PostedDebits++ }},
	{"ledger-balances", "money left in clearing", func(_ *testing.T, e *evidence) {
		w := &world{e: e}
		w.entries("t", "s", "provider", "clearing")
	}},
	{"ledger-balances", "something is pending", func(_ *testing.T, e *evidence) { e.Transfers[0].State = "pending" }},
	{"ledger-balances", "a pending balance", func(_ *testing.T, e *evidence) { e.Accounts[0].PendingDebits = 1 }},
	{"everything-sold", "a unit was left over", func(_ *testing.T, e *evidence) { e.Sale.Sold-- }},
	{"everything-sold", "a unit is held for ever", func(_ *testing.T, e *evidence) { e.Sale.Held++ }},
	{"units-came-back", "a unit came back too late", func(t *testing.T, e *evidence) { h := holdIn(t, e, "expired"); h.ChangedAt = h.ExpiresAt + 2_100_000 }},
	{"units-came-back", "late, and only the store was away", func(t *testing.T, e *evidence) {
		h, o := holdIn(t, e, "expired"), outageOf(t, e, FaultPauseStore)
		h.ChangedAt = h.ExpiresAt + 2_100_000
		o.Down, o.Up = h.ExpiresAt, h.ChangedAt
	}},
	{"units-came-back", "a unit never came back", func(t *testing.T, e *evidence) {
		h := holdIn(t, e, "expired")
		h.State = "held"
		e.Stopping = h.ExpiresAt + 2_100_000
	}},
	{"permits-agree", "a sold unit's permit lapses", func(t *testing.T, e *evidence) { e.Permits[holdIn(t, e, "confirmed").Permit] = e.StoreNow }},
	{"permits-agree", "a sold unit's permit is gone", func(t *testing.T, e *evidence) { delete(e.Permits, holdIn(t, e, "confirmed").Permit) }},
	{"permits-agree", "a permit nobody has, for ever", func(_ *testing.T, e *evidence) { e.Permits["leak"] = never }},
	{"permits-agree", "a cancelled order's permit stays", func(t *testing.T, e *evidence) { e.Permits[holdIn(t, e, "cancelled").Permit] = never }},
	{"permits-agree", "a permit that lives too long", func(_ *testing.T, e *evidence) { e.Permits["leak"] = e.StoreNow + 60_000_000 }},
	{"events-streamed", "a state that never was", func(_ *testing.T, e *evidence) { e.Streams[1].Events[4].Held++ }},
	{"events-streamed", "a state that is not the last", func(_ *testing.T, e *evidence) {
		e.Streams[0].Events = e.Streams[0].Events[:len(e.Streams[0].Events)-1]
	}},
	{"events-streamed", "back in time", func(_ *testing.T, e *evidence) {
		s := e.Streams[0].Events
		s[1], s[2] = s[2], s[1]
	}},
	{"store-kept-its-word", "a write is gone", func(_ *testing.T, e *evidence) { e.Marks.Lost = []int{7} }},
	{"store-kept-its-word", "nothing was written", func(_ *testing.T, e *evidence) { e.Marks.Acked = 0 }},
	{"events-streamed", "nobody watched", func(_ *testing.T, e *evidence) { e.Streams = nil }},
	{"servers-answered-well", "an internal error", func(_ *testing.T, e *evidence) { e.Counts["answer 500 internal"] = 1 }},
	{"servers-answered-well", "a refusal of what is right", func(_ *testing.T, e *evidence) { e.Counts["answer 422 amount"] = 1 }},
	{"servers-answered-well", "a 503 that does not say what is gone", func(_ *testing.T, e *evidence) { e.Counts["answer 503 ok"] = 1 }},
	{"servers-answered-well", "a 503 that does not say when to come back", func(_ *testing.T, e *evidence) { e.Counts[didNotSay] = 1 }},
	{"servers-answered-well", "a wait without an end", func(_ *testing.T, e *evidence) { e.Counts[didWait] = 1 }},
	{"servers-answered-well", "a server fell over", func(_ *testing.T, e *evidence) { e.Exits = []string{"server 0 did not end cleanly: exit status 2"} }},
	{"storm-happened", "no kill", func(_ *testing.T, e *evidence) { e.Outages = nil }},
	{"storm-happened", "a kill of an idle server", func(_ *testing.T, e *evidence) { e.Outages[0].InFlight = 0 }},
	{"storm-happened", "a server that was dead already", func(_ *testing.T, e *evidence) { e.Outages[0].Hit = false }},
	{"storm-happened", "a fault that did not come", func(_ *testing.T, e *evidence) { e.Outages = e.Outages[:1] }},
	{"storm-happened", "one fault twice instead of another", func(_ *testing.T, e *evidence) { e.Outages[1].Fault = FaultPauseStore }},
	{"storm-happened", "an empty store was flushed", func(t *testing.T, e *evidence) { outageOf(t, e, FaultFlushStore).Hit = false }},
	{"storm-happened", "the database went while nobody asked", func(t *testing.T, e *evidence) { outageOf(t, e, FaultStopDB).InFlight = 0 }},
	{"recovered-by-themselves", "never", func(t *testing.T, e *evidence) { outageOf(t, e, FaultKillStore).Success[1] = 0 }},
	{"recovered-by-themselves", "too late", func(t *testing.T, e *evidence) {
		o := outageOf(t, e, FaultStopDB)
		o.Success[0] = o.Up + 5_100_000
	}},
	{"recovered-by-themselves", "one server was not asked", func(t *testing.T, e *evidence) {
		o := outageOf(t, e, FaultPauseStore)
		o.Success = o.Success[:1]
	}},
	{"storm-happened", "no duplicates", func(_ *testing.T, e *evidence) { e.Counts[didDuplicates] = 0 }},
	{"storm-happened", "nobody vanished", func(_ *testing.T, e *evidence) { e.Counts[didVanish] = 0 }},
	{"storm-happened", "nothing beyond the limit", func(_ *testing.T, e *evidence) { e.Counts[didLimit] = 0 }},
	{"storm-happened", "nothing was sold", func(_ *testing.T, e *evidence) { e.Counts["captured payments"] = 0 }},
	{"storm-happened", "a provider without faults", func(_ *testing.T, e *evidence) {
		for range 100 {
			e.Provider = append(e.Provider, providerLine{Op: "authorise", Ref: "x"})
		}
		clear(e.Dealt)
	}},
}

func TestEachCheckSeesItsViolations(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range violations {
		seen[v.check] = true
		t.Run(v.check+"/"+strings.ReplaceAll(v.what, " ", "-"), func(t *testing.T) {
			e := goodEvidence()
			v.tamper(t, e)
			checks, verdict := judge(e)
			c := one(t, checks, func(c Check) bool { return c.Name == v.check })
			if c.OK || verdict != Fail {
				t.Errorf("not seen: %s", c.Detail)
			}
		})
	}
	for _, c := range saleChecks {
		if !seen[c.name] {
			t.Errorf("nothing shows that %s can fail", c.name)
		}
	}
}

func TestTimeWithoutAServerDoesNotCount(t *testing.T) {
	down := func(server int, from, to int64) outage {
		return outage{Fault: FaultKillServer, Server: server, Down: from, Up: to}
	}
	of := func(fault string, from, to int64) outage { return outage{Fault: fault, Down: from, Up: to} }
	for _, c := range []struct {
		name    string
		servers int
		outages []outage
		want    int64 // until when a hold that ends at 10s has to be back, in ms
	}{
		{"no outage", 1, nil, 12_000},
		{"an earlier one", 1, []outage{down(0, 6e6, 7e6)}, 12_000},
		{"one that was over a moment before", 1, []outage{down(0, 8e6, 9.5e6)}, 12_500},
		{"down when it ended", 1, []outage{down(0, 9e6, 12e6)}, 15_000},
		{"down a moment later", 1, []outage{down(0, 10.5e6, 12e6)}, 15_000},
		{"down after it was due", 1, []outage{down(0, 12.5e6, 13e6)}, 12_000},
		{"two in a row", 1, []outage{down(0, 9e6, 12e6), down(0, 12.5e6, 14e6)}, 17_000},
		{"one of two", 2, []outage{down(0, 9e6, 12e6)}, 12_000},
		{"two of two", 2, []outage{down(0, 9e6, 12e6), down(1, 11e6, 15e6)}, 15_000},
		{"the database", 2, []outage{of(FaultStopDB, 9e6, 12e6)}, 15_000},
		{"the database, later than the server", 1, []outage{of(FaultStopDB, 12.5e6, 14e6), down(0, 9e6, 12e6)}, 17_000},
		{"the database, and one of two", 2, []outage{down(1, 8e6, 20e6), of(FaultStopDB, 10.1e6, 13e6)}, 16_000},
		{"the database, longer than the server", 1, []outage{down(0, 9e6, 10.5e6), of(FaultStopDB, 9e6, 13e6)}, 16_000},
		{"the store", 1, []outage{of(FaultPauseStore, 9e6, 12e6), of(FaultKillStore, 9e6, 12e6), of(FaultFlushStore, 9e6, 12e6)}, 12_000},
		{"two of two at the wrong moment", 2, []outage{down(0, 9e6, 12e6), down(1, 10.5e6, 15e6)}, 15_000},
	} {
		e := &evidence{Outages: c.outages, Counts: map[string]int{"servers": c.servers}}
		if got := e.dueBack(10e6); got != c.want*1000 {
			t.Errorf("%s: due after %d ms, want %d", c.name, got/1000, c.want)
		}
	}
}

func TestMemHasNoPermitsToRead(t *testing.T) {
	e := goodEvidence()
	e.StoreRead, e.Permits = false, nil
	if _, verdict := judge(e); verdict != Pass {
		t.Error("a store that cannot be read from outside fails the drill")
	}
}

func TestFindingsQuoteAFew(t *testing.T) {
	var f findings
	for range 12 {
		f.add("wrong")
	}
	if got := f.detail("looked"); !strings.HasSuffix(got, "; and 7 more") || strings.Count(got, "wrong") != quoted {
		t.Error(got)
	}
}
