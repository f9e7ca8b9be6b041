package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// books is the ledger as a list of transfers: every balance is counted anew from all of them.
type books struct {
	accounts  map[string]ledger.Account
	transfers []*moved
	steps     map[string]ledger.Op
}

type moved struct {
	ledger.Transfer
	state            string
	posted, refunded int64
}

func (m *books) find(id string) *moved {
	for _, t := range m.transfers {
		if t.ID == id {
			return t
		}
	}
	return nil
}

func (m *books) balance(id string) (b ledger.Balances) {
	for _, t := range m.transfers {
		var pending int64
		if t.state == "pending" {
			pending = t.Amount
		}
		if t.Debit == id {
			b.PendingDebits += pending
			b.PostedDebits += t.posted
			b.PostedCredits += t.refunded
		}
		if t.Credit == id {
			b.PendingCredits += pending
			b.PostedCredits += t.posted
			b.PostedDebits += t.refunded
		}
	}
	return b
}

func (m *books) overdrawn(id string) bool {
	a, b := m.accounts[id], m.balance(id)
	up, down := b.PostedDebits, b.PostedCredits+b.PendingCredits
	if a.Kind == ledger.Liability {
		up, down = b.PostedCredits, b.PostedDebits+b.PendingDebits
	}
	return !a.Overdraft && up < down
}

// try makes a change, and takes it back when an account would be overdrawn by it.
func (m *books) try(t *moved, change func()) error {
	was, n := *t, len(m.transfers)
	change()
	if m.overdrawn(t.Debit) || m.overdrawn(t.Credit) {
		*t, m.transfers = was, m.transfers[:n]
		return ledger.ErrInsufficient
	}
	return nil
}

// decide is what an operation comes to.
func (m *books) decide(op ledger.Op) (replayed bool, err error) {
	switch op := op.(type) {
	case ledger.Transfer:
		return m.transfer(op)
	case ledger.Post:
		return m.step(op.ID, op.Transfer, op, func(t *moved) error {
			if op.Amount == 0 {
				op.Amount = t.Amount
			}
			if t.state != "pending" || t.ExpiresAt > 0 || op.Amount > t.Amount {
				return ledger.ErrState
			}
			return m.try(t, func() { t.state, t.posted = "posted", op.Amount })
		})
	case ledger.Void:
		return m.step(op.ID, op.Transfer, op, func(t *moved) error {
			if t.state != "pending" {
				return ledger.ErrState
			}
			t.state = "voided"
			return nil
		})
	case ledger.Refund:
		return m.step(op.ID, op.Transfer, op, func(t *moved) error {
			if op.Amount == 0 {
				op.Amount = t.posted - t.refunded
			}
			if t.state != "posted" || op.Amount == 0 || op.Amount > t.posted-t.refunded {
				return ledger.ErrState
			}
			return m.try(t, func() { t.refunded += op.Amount })
		})
	}
	return false, ledger.ErrInvalid
}

func (m *books) transfer(op ledger.Transfer) (replayed bool, err error) {
	if op.Amount == 0 || op.Debit == op.Credit || (op.ExpiresAt > 0 && !op.Pending) {
		return false, ledger.ErrInvalid
	}
	if t := m.find(op.ID); t != nil {
		if t.Transfer != op {
			return false, ledger.ErrConflict
		}
		return true, nil
	}
	debit, credit := m.accounts[op.Debit], m.accounts[op.Credit]
	if debit.ID == "" || credit.ID == "" {
		return false, ledger.ErrNotFound
	}
	if debit.Currency != op.Currency || credit.Currency != op.Currency {
		return false, ledger.ErrCurrency
	}
	t := &moved{Transfer: op, state: "pending"}
	return false, m.try(t, func() {
		if !op.Pending {
			t.state, t.posted = "posted", op.Amount
		}
		m.transfers = append(m.transfers, t)
	})
}

func (m *books) step(id, transfer string, op ledger.Op, do func(*moved) error) (replayed bool, err error) {
	t := m.find(transfer)
	if done, ok := m.steps[id]; ok {
		if !same(done, op, t) {
			return false, ledger.ErrConflict
		}
		return true, nil
	}
	if t == nil {
		return false, ledger.ErrNotFound
	}
	var left int64
	if r, ok := op.(ledger.Refund); ok && r.Amount == 0 {
		left = t.posted - t.refunded
	}
	if err := do(t); err != nil {
		return false, err
	}
	if r, ok := op.(ledger.Refund); ok && r.Amount == 0 {
		r.Amount = left
		op = r
	}
	m.steps[id] = op
	return false, nil
}

// same says whether op repeats what was done; an amount that was left open is the one it had.
func same(done, op ledger.Op, t *moved) bool {
	switch op := op.(type) {
	case ledger.Post:
		d, ok := done.(ledger.Post)
		if d.Amount == 0 && t != nil {
			d.Amount = t.Amount
		}
		return ok && d.Transfer == op.Transfer && (op.Amount == 0 || op.Amount == d.Amount)
	case ledger.Refund:
		d, ok := done.(ledger.Refund)
		return ok && d.Transfer == op.Transfer && (op.Amount == 0 || op.Amount == d.Amount)
	}
	return done == op
}

// expire ends up to limit of the transfers whose time is over, in the order of their ids.
func (m *books) expire(limit int) (n int) {
	var due []*moved
	for _, t := range m.transfers {
		if t.state == "pending" && t.ExpiresAt > 0 {
			due = append(due, t)
		}
	}
	slices.SortFunc(due, func(a, b *moved) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	for _, t := range due[:min(limit, len(due))] {
		t.state = "expired"
		n++
	}
	return n
}

// drawOp makes an operation out of few ids, so that many repeat or contradict others.
func drawOp(rt *rapid.T, prefix string) ledger.Op {
	id := func(kind string, n int) string {
		return fmt.Sprintf("%s%s%d", prefix, kind, rapid.IntRange(0, n).Draw(rt, kind))
	}
	account := rapid.SampledFrom([]string{"bank", "ada", "bob", "till", "bank", "ada", "yen", "none"})
	amount := rapid.Int64Range(0, 60)
	switch rapid.IntRange(0, 5).Draw(rt, "op") {
	case 0:
		return ledger.Post{ID: id("s", 12), Transfer: id("t", 5), Amount: amount.Draw(rt, "amount")}
	case 1:
		return ledger.Void{ID: id("s", 12), Transfer: id("t", 5)}
	case 2:
		return ledger.Refund{ID: id("s", 12), Transfer: id("t", 5), Amount: amount.Draw(rt, "amount")}
	}
	t := ledger.Transfer{
		ID: id("t", 5), Debit: prefix + account.Draw(rt, "debit"), Credit: prefix + account.Draw(rt, "credit"),
		Amount: amount.Draw(rt, "amount"), Currency: "EUR", Pending: rapid.Bool().Draw(rt, "pending"),
	}
	if rapid.IntRange(0, 3).Draw(rt, "expired") == 0 {
		t.ExpiresAt = 1 // it is over before it began
	}
	return t
}

// Whatever is asked, in whatever order, each outcome and each balance is the model's.
func TestModel(t *testing.T) {
	each(t, func(t *testing.T, b *bank) {
		run := 0
		rapid.Check(t, func(rt *rapid.T) {
			run++
			prefix := fmt.Sprintf("%d/", run)
			m := &books{accounts: map[string]ledger.Account{}, steps: map[string]ledger.Op{}}
			var mine []ledger.Account
			for _, a := range accounts {
				a.ID = prefix + a.ID
				m.accounts[a.ID] = a
				mine = append(mine, a)
			}
			b.write(func(ctx context.Context, tx *sqldb.Tx) error { return ledger.Open(ctx, tx, mine...) })
			rich := []ledger.Op{ // so that more succeeds than opening accounts
				ledger.Transfer{ID: prefix + "f0", Debit: prefix + "bank", Credit: prefix + "ada", Amount: 100, Currency: "EUR"},
				ledger.Transfer{ID: prefix + "f1", Debit: prefix + "till", Credit: prefix + "bob", Amount: 50, Currency: "EUR"},
			}
			agree(rt, m, rich, b.apply(rich...))
			for range rapid.IntRange(1, 6).Draw(rt, "batches") {
				ops := make([]ledger.Op, rapid.IntRange(1, 10).Draw(rt, "ops"))
				for i := range ops {
					ops[i] = drawOp(rt, prefix)
				}
				agree(rt, m, ops, b.apply(ops...))
				if rapid.IntRange(0, 3).Draw(rt, "expire") == 0 {
					b.expires(rt, m, rapid.IntRange(1, 3).Draw(rt, "limit"))
				}
			}
			b.expires(rt, m, ledger.MaxOps)
			for id := range m.accounts {
				if got, want := b.balance(id), m.balance(id); got != want {
					rt.Fatalf("%s has %+v, want %+v", id, got, want)
				}
			}
		})
	})
}

func agree(rt *rapid.T, m *books, ops []ledger.Op, got []ledger.Outcome) {
	for i, op := range ops {
		replayed, err := m.decide(op)
		if !errors.Is(got[i].Err, err) || (err == nil && got[i].Err != nil) || got[i].Replayed != replayed {
			rt.Fatalf("%T %+v: %+v, want %v, replayed %v", op, op, got[i], err, replayed)
		}
	}
}

func (b *bank) expires(rt *rapid.T, m *books, limit int) {
	want, got := m.expire(limit), 0
	b.write(func(ctx context.Context, tx *sqldb.Tx) (err error) {
		got, err = ledger.Expire(ctx, tx, limit)
		return err
	})
	if got != want {
		rt.Fatalf("%d expired, want %d", got, want)
	}
}
