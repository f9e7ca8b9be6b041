package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// MaxOps bounds one Apply.
const MaxOps = 500

// Apply decides ops in order, each for itself: an operation that is refused (Outcome.Err)
// leaves the others alone. An error means that nothing was decided; the caller rolls back.
//
// Ids of transfers are one space, ids of all other operations a second one. Refusals are not
// remembered: the same operation may succeed later.
func Apply(ctx context.Context, tx *sqldb.Tx, ops ...Op) ([]Outcome, error) {
	if len(ops) > MaxOps {
		return nil, fmt.Errorf("%w: more than %d operations", ErrInvalid, MaxOps)
	}
	b, err := open(ctx, tx, ops)
	if err != nil {
		return nil, err
	}
	outcomes := make([]Outcome, len(ops))
	for i, op := range ops {
		if err := op.validate(); err != nil {
			outcomes[i].Err = err
			continue
		}
		outcomes[i] = b.decide(op)
	}
	return outcomes, b.write(ctx, tx)
}

// open loads what ops touch. Transfers are locked first and accounts second, each in the order
// of their ids, so that two programs cannot wait for each other.
func open(ctx context.Context, tx *sqldb.Tx, ops []Op) (*books, error) {
	var fresh, old, steps, accounts []string
	for _, op := range ops {
		if op.validate() != nil {
			continue
		}
		switch op := op.(type) {
		case Transfer:
			fresh = append(fresh, op.ID)
			accounts = append(accounts, op.Debit, op.Credit)
		case Post:
			old, steps = append(old, op.Transfer), append(steps, op.ID)
		case Void:
			old, steps = append(old, op.Transfer), append(steps, op.ID)
		case Refund:
			old, steps = append(old, op.Transfer), append(steps, op.ID)
		}
	}
	known, err := loadTransfers(ctx, tx, old, tx.ForUpdate())
	if err != nil {
		return nil, err
	}
	for _, t := range known {
		accounts = append(accounts, t.Debit, t.Credit)
	}
	b, err := load(ctx, tx, accounts, tx.ForUpdate())
	if err != nil {
		return nil, err
	}
	// Only now that the accounts are locked: a rival with the same id has committed.
	if b.transfers, err = loadTransfers(ctx, tx, fresh, ""); err != nil {
		return nil, err
	}
	maps.Copy(b.transfers, known)
	b.steps, err = loadSteps(ctx, tx, steps)
	return b, err
}

func (b *books) decide(op Op) Outcome {
	switch op := op.(type) {
	case Transfer:
		return b.transfer(op)
	case Post:
		return b.step(stepRow{op.ID, op.Transfer, "post", op.Amount})
	case Void:
		return b.step(stepRow{op.ID, op.Transfer, "void", 0})
	case Refund:
		return b.step(stepRow{op.ID, op.Transfer, "refund", op.Amount})
	}
	return Outcome{Err: ErrInvalid}
}

func (b *books) transfer(op Transfer) Outcome {
	if t := b.transfers[op.ID]; t != nil {
		if t.Transfer != op {
			return Outcome{Err: fmt.Errorf("%w: transfer %q", ErrConflict, op.ID)}
		}
		return Outcome{Replayed: true}
	}
	debit, credit := b.accounts[op.Debit], b.accounts[op.Credit]
	if debit == nil || credit == nil {
		return Outcome{Err: fmt.Errorf("%w: account %q or %q", ErrNotFound, op.Debit, op.Credit)}
	}
	if debit.Currency != op.Currency || credit.Currency != op.Currency {
		return Outcome{Err: fmt.Errorf("%w: %s", ErrCurrency, op.Currency)}
	}
	t := &transferRow{Transfer: op, state: "pending", fresh: true}
	move := sums{pending: op.Amount}
	if !op.Pending {
		t.state, t.posted, move = "posted", op.Amount, sums{posted: op.Amount}
	}
	if err := b.move(debit, credit, move); err != nil {
		return Outcome{Err: err}
	}
	b.transfers[op.ID] = t
	if !op.Pending {
		b.enter(t, op.ID, op.Debit, op.Credit, op.Amount)
	}
	return Outcome{}
}

// step decides what is done to a transfer that exists.
func (b *books) step(s stepRow) Outcome {
	t := b.transfers[s.transfer]
	if done, ok := b.steps[s.id]; ok {
		if done.transfer != s.transfer || done.step != s.step || (s.amount != 0 && s.amount != done.amount) {
			return Outcome{Err: fmt.Errorf("%w: %q", ErrConflict, s.id)}
		}
		return Outcome{Replayed: true}
	}
	if t == nil {
		return Outcome{Err: fmt.Errorf("%w: transfer %q", ErrNotFound, s.transfer)}
	}
	var err error
	if s.step == "refund" {
		err = b.refund(t, &s)
	} else {
		err = b.end(t, &s)
	}
	if err != nil {
		return Outcome{Err: err}
	}
	b.steps[s.id] = s
	b.newSteps = append(b.newSteps, s)
	t.changed = true
	return Outcome{}
}

// end posts or voids a pending transfer.
func (b *books) end(t *transferRow, s *stepRow) error {
	if s.amount == 0 && s.step == "post" {
		s.amount = t.Amount
	}
	lapsed := t.ExpiresAt > 0 && t.ExpiresAt <= b.now
	if t.state != "pending" || (lapsed && s.step == "post") || s.amount > t.Amount {
		return fmt.Errorf("%w: %s of %q, which is %s", ErrState, s.step, t.ID, t.state)
	}
	err := b.move(b.accounts[t.Debit], b.accounts[t.Credit], sums{pending: -t.Amount, posted: s.amount})
	if err != nil {
		return err
	}
	if t.state = "voided"; s.step == "post" {
		t.state, t.posted = "posted", s.amount
		b.enter(t, s.id, t.Debit, t.Credit, s.amount)
	}
	return nil
}

func (b *books) refund(t *transferRow, s *stepRow) error {
	if s.amount == 0 {
		s.amount = t.posted - t.refunded
	}
	if t.state != "posted" || s.amount == 0 || s.amount > t.posted-t.refunded {
		return fmt.Errorf("%w: refund of %q, which is %s with %d left", ErrState, t.ID, t.state, t.posted-t.refunded)
	}
	if err := b.move(b.accounts[t.Credit], b.accounts[t.Debit], sums{posted: s.amount}); err != nil {
		return err
	}
	t.refunded += s.amount
	b.enter(t, s.id, t.Credit, t.Debit, s.amount)
	return nil
}

// sums is a change of what is pending and what is posted.
type sums struct{ pending, posted int64 }

// move changes both sides, or neither.
func (b *books) move(debit, credit *accountRow, by sums) error {
	d, c := debit.Balances, credit.Balances
	d.PendingDebits += by.pending
	d.PostedDebits += by.posted
	c.PendingCredits += by.pending
	c.PostedCredits += by.posted
	for _, x := range []struct {
		of  *accountRow
		sum Balances
	}{{debit, d}, {credit, c}} {
		if x.of.overdrawn(x.sum) {
			return fmt.Errorf("%w: account %q", ErrInsufficient, x.of.ID)
		}
		if max(x.sum.PostedDebits+x.sum.PendingDebits, x.sum.PostedCredits+x.sum.PendingCredits) > MaxTurnover {
			return fmt.Errorf("%w: account %q would have turned over more than 2^62", ErrInvalid, x.of.ID)
		}
	}
	debit.Balances, credit.Balances = d, c
	debit.changed, credit.changed = true, true
	return nil
}

func (a *accountRow) overdrawn(s Balances) bool {
	if a.Overdraft {
		return false
	}
	if a.Kind == Asset {
		return s.PostedDebits-s.PostedCredits-s.PendingCredits < 0
	}
	return s.PostedCredits-s.PostedDebits-s.PendingDebits < 0
}

func (b *books) enter(t *transferRow, step, debit, credit string, amount int64) {
	b.entries = append(b.entries, entryRow{t.ID, step, debit, amount}, entryRow{t.ID, step, credit, -amount})
}

// Expire releases up to limit pending transfers whose time is over and says how many.
func Expire(ctx context.Context, tx *sqldb.Tx, limit int) (int, error) {
	ids, err := texts(ctx, tx, `
		SELECT id FROM ledger_transfers WHERE state = 'pending' AND expires_at > 0 AND expires_at <= holdfast_now()
		ORDER BY id LIMIT $1`+tx.SkipLocked(), min(limit, MaxOps))
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	due, err := loadTransfers(ctx, tx, ids, tx.ForUpdate())
	if err != nil {
		return 0, err
	}
	var accounts []string
	for _, t := range due {
		accounts = append(accounts, t.Debit, t.Credit)
	}
	b, err := load(ctx, tx, accounts, tx.ForUpdate())
	if err != nil {
		return 0, err
	}
	b.transfers = due
	slices.Sort(ids)
	for _, id := range ids {
		t := due[id]
		if err := b.move(b.accounts[t.Debit], b.accounts[t.Credit], sums{pending: -t.Amount}); err != nil {
			return 0, err
		}
		t.state, t.changed = "expired", true
	}
	return len(ids), b.write(ctx, tx)
}
