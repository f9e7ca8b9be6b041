package drill

import "fmt"

// ordersArePaid: a confirmed order has one captured payment, and a captured payment its order.
func ordersArePaid(e *evidence) (wrong findings, looked string) {
	orders := map[string]orderRow{}
	for _, o := range e.Orders {
		orders[o.ID] = o
	}
	captured := map[string]int{} // by order
	for _, p := range e.Payments {
		o, ordered := orders[p.Order]
		switch {
		case !final(p.State):
			wrong.add("payment %s is still %s", p.ID, p.State)
		case p.State == "captured":
			captured[p.Order]++
			if !ordered || o.State != "confirmed" || o.Payment != p.ID || o.Hold != p.Hold || o.Buyer != p.Buyer || o.Amount != p.Amount || o.Currency != p.Currency {
				wrong.add("payment %s was captured, and its order is not there, or another one", p.ID)
			}
		case ordered && o.State == "confirmed":
			wrong.add("order %s is confirmed and its payment is %s", o.ID, p.State)
		}
	}
	n := 0
	for _, o := range e.Orders {
		if o.State != "confirmed" {
			continue
		}
		n++
		if captured[o.ID] != 1 {
			wrong.add("order %s has %d captured payments", o.ID, captured[o.ID])
		}
	}
	return wrong, fmt.Sprintf("%d confirmed orders, each captured once; %d payments", n, len(e.Payments))
}

// refHistory is what the provider did for one reference.
type refHistory struct {
	authorised, captured int
	status               string // the last outcome
	amount               int64
	currency             string
}

// histories reads the provider's log.
func histories(lines []providerLine) map[string]*refHistory {
	refs := map[string]*refHistory{}
	for _, l := range lines {
		h := refs[l.Ref]
		if h == nil {
			h = &refHistory{}
			refs[l.Ref] = h
		}
		h.status = l.Outcome
		if l.Op == "authorise" && l.Outcome != "refused" {
			h.authorised++
			h.amount, h.currency = l.Amount, l.Currency
		}
		if l.Outcome == "captured" {
			h.captured++
		}
	}
	return refs
}

// providerAgrees asks the one who moves the money: its log outlived every server.
func providerAgrees(e *evidence) (wrong findings, looked string) {
	refs := histories(e.Provider)
	rows := map[string]paymentRow{}
	for _, p := range e.Payments {
		rows[p.ID] = p
		if p.State == "captured" && (refs[p.ID] == nil || refs[p.ID].status != "captured") {
			wrong.add("payment %s is captured in SQL and not at the provider", p.ID)
		}
	}
	states := map[string]int{}
	for _, ref := range sorted(refs) {
		h := refs[ref]
		p := rows[ref]
		states[h.status]++
		switch {
		case h.authorised > 1 || h.captured > 1:
			wrong.add("%s was authorised %d and captured %d times", ref, h.authorised, h.captured)
		case h.status == "authorised":
			wrong.add("%s is left authorised; in SQL it is %q", ref, p.State)
		case h.status == "captured" && p.State != "captured":
			wrong.add("%s is captured at the provider and %q in SQL", ref, p.State)
		case h.status == "refunded" && p.State != "refunded":
			wrong.add("%s is refunded at the provider and %q in SQL", ref, p.State)
		case h.authorised > 0 && p.ID != "" && (h.amount != p.Amount || h.currency != p.Currency):
			wrong.add("%s was authorised for %d %s, the payment is of %d %s", ref, h.amount, h.currency, p.Amount, p.Currency)
		}
	}
	return wrong, fmt.Sprintf("%d references: %d captured, %d voided, %d refunded, %d refused, none left open",
		len(refs), states["captured"], states["voided"], states["refunded"], states["refused"])
}

// ledgerBalances adds up the books.
func ledgerBalances(e *evidence) (wrong findings, looked string) {
	net, transfers, total := map[string]int64{}, map[string]int64{}, int64(0)
	for _, en := range e.Entries {
		net[en.Account] += en.Amount
		transfers[en.Transfer] += en.Amount
		total += en.Amount
	}
	if total != 0 {
		wrong.add("all entries sum to %d", total)
	}
	for _, id := range sorted(transfers) {
		if transfers[id] != 0 {
			wrong.add("the entries of transfer %s sum to %d", id, transfers[id])
		}
	}
	for _, a := range e.Accounts {
		if a.PostedDebits-a.PostedCredits != net[a.ID] {
			wrong.add("account %s has %d, its entries sum to %d", a.ID, a.PostedDebits-a.PostedCredits, net[a.ID])
		}
		if a.PendingDebits != 0 || a.PendingCredits != 0 {
			wrong.add("account %s has something pending", a.ID)
		}
	}
	for _, t := range e.Transfers {
		if t.State == "pending" {
			wrong.add("transfer %s is pending", t.ID)
		}
	}
	sold := int64(0)
	for _, p := range e.Payments {
		if p.State == "captured" {
			sold += p.Amount
		}
	}
	// The merchant is owed what was captured, the provider owes it to us, nothing is between.
	for account, want := range map[string]int64{"merchant": -sold, "provider": sold, "clearing": 0} {
		if got := net[account+":"+e.Currency]; got != want {
			wrong.add("account %s has %d, the captured payments make %d", account, got, want)
		}
	}
	return wrong, fmt.Sprintf("%d entries of %d transfers sum to zero; %d captured", len(e.Entries), len(e.Transfers), sold)
}
