package payment

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// forward is one step towards a sale: to authorised, capturing or captured. It commits together
// with the steps of other payments. Errors: ErrHoldGone, errMoved, and those of sqldb.
func (p *Payments) forward(ctx context.Context, pay *Payment, to State) error {
	next := *pay
	next.State = to
	next, err := p.moving.Do(ctx, next)
	if err == nil {
		*pay = next
	}
	return err
}

// before is where a step forward comes from. What is authorised was left behind by a version that
// wrote that down first.
var before = map[State][]State{Capturing: {Pending, Authorised}, Captured: {Capturing}}

// moveAll takes payments to the states that they are given with. It locks payments, holds,
// sales and accounts, in this order and each sorted, so that two servers cannot wait for each
// other.
func (p *Payments) moveAll(ctx context.Context, tx *sqldb.Tx, in []Payment) ([]sqldb.Outcome[Payment], error) {
	m := &moves{out: make([]sqldb.Outcome[Payment], len(in)), to: map[State][]int{}}
	for i, pay := range in {
		m.out[i].Value = pay
	}
	now, err := m.lock(ctx, tx)
	if err != nil {
		return nil, err
	}
	if err := m.confirm(ctx, tx, p.goods); err != nil {
		return nil, err
	}
	if err := m.write(ctx, tx, now, p.opts.Lease); err != nil {
		return nil, err
	}
	return m.out, nil
}

// moves is one transaction's steps.
type moves struct {
	out []sqldb.Outcome[Payment]
	to  map[State][]int // places of those that can be made
}

// lock keeps the rows until the transaction ends, and sorts out those that are not any more
// what their worker has seen: a worker that outlived its lease must not mistake what another
// has done since for a hold that is gone.
func (m *moves) lock(ctx context.Context, tx *sqldb.Tx) (now int64, err error) {
	place := map[string]int{}
	var list sqldb.Rows
	for i, o := range m.out {
		if _, twice := place[o.Value.ID]; twice {
			m.out[i].Err = errMoved
			continue
		}
		place[o.Value.ID] = i
		list.Add(o.Value.ID)
		m.out[i].Err = errMoved // until its row says that it is not
	}
	rows, err := tx.Query(ctx, `SELECT id, state, giving_up, holdfast_now() FROM payments
		WHERE id IN (SELECT id FROM `+tx.List("$1", "id text")+`) ORDER BY id`+tx.ForUpdate(), list)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var state State
		var givingUp bool
		if err := rows.Scan(&id, &state, &givingUp, &now); err != nil {
			return 0, err
		}
		i := place[id]
		if next := m.out[i].Value.State; slices.Contains(before[next], state) && !givingUp {
			m.out[i].Err = nil
			m.to[next] = append(m.to[next], i)
		}
	}
	return now, rows.Err()
}

func (m *moves) claims(to State) []Claim {
	claims := make([]Claim, len(m.to[to]))
	for n, i := range m.to[to] {
		claims[n] = m.out[i].Value.claim()
	}
	return claims
}

// refuse keeps of the steps to a state those that were not refused.
func (m *moves) refuse(to State, refused []error) {
	var kept []int
	for n, i := range m.to[to] {
		if m.out[i].Err = refused[n]; refused[n] == nil {
			kept = append(kept, i)
		}
	}
	m.to[to] = kept
}

// confirm makes orders.
func (m *moves) confirm(ctx context.Context, tx *sqldb.Tx, goods Goods) error {
	if len(m.to[Capturing]) == 0 {
		return nil
	}
	orders, refused, err := goods.Confirm(ctx, tx, m.claims(Capturing))
	if err != nil {
		return err
	}
	for n, i := range m.to[Capturing] {
		m.out[i].Value.Order = orders[n]
	}
	m.refuse(Capturing, refused)
	return nil
}

// write writes the payments, what they mean to the ledger, and events.
func (m *moves) write(ctx context.Context, tx *sqldb.Tx, now int64, lease time.Duration) error {
	var list sqldb.Rows
	var ops []ledger.Op
	var events []Payment
	for _, to := range []State{Capturing, Captured} {
		for _, i := range m.to[to] {
			pay := &m.out[i].Value
			pay.UpdatedAt, pay.attempts = time.UnixMicro(now).UTC(), 1
			if to == Captured {
				pay.Reason = ""
			}
			list.Add(pay.ID, string(to), pay.Order, pay.Reason, now, now+lease.Microseconds())
			events = append(events, *pay)
			ops = append(ops, pay.entries()...)
		}
	}
	if len(list) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		UPDATE payments SET state = next, order_id = ordered, reason = why, updated_at = at, attempts = 1, next_at = lease
		FROM `+tx.List("$1", "pay text", "next text", "ordered text", "why text", "at bigint", "lease bigint")+`
		WHERE payments.id = list.pay`, list)
	if err != nil {
		return err
	}
	if err := publish(ctx, tx, events...); err != nil {
		return err
	}
	return post(ctx, tx, ops...) // last: everybody waits for the accounts
}

// entries is what a step forward means to the ledger.
func (p Payment) entries() []ledger.Op {
	switch p.State {
	case Capturing:
		return []ledger.Op{ledger.Post{ID: p.ID + ":post", Transfer: p.ID}}
	case Captured:
		return []ledger.Op{ledger.Transfer{
			ID: p.ID + ":capture", Debit: clearingAccount(p.Currency), Credit: merchantAccount(p.Currency),
			Amount: p.Amount, Currency: p.Currency,
		}}
	}
	return nil
}

// errMoved: another worker has taken the payment a step further.
var errMoved = errors.New("payment: moved by another worker")

// move is one step forward: in one transaction the state changes, if it is still what it was,
// and fn does what belongs to it.
func (p *Payments) move(ctx context.Context, pay *Payment, to State, fn func(ctx context.Context, tx *sqldb.Tx, next *Payment) error) error {
	var next Payment
	err := p.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		next = *pay
		next.State = to
		// First of all: a worker that outlived its lease must not mistake what another has
		// done since for a hold that is gone.
		if err := p.lock(ctx, tx, pay); err != nil {
			return err
		}
		if err := fn(ctx, tx, &next); err != nil {
			return err
		}
		var at int64
		err := tx.Row(ctx, `
			UPDATE payments SET state = $3, order_id = $4, reason = $5, updated_at = holdfast_now(),
				attempts = 1, next_at = holdfast_now() + $6
			WHERE id = $1 AND state = $2 RETURNING updated_at`,
			pay.ID, string(pay.State), string(to), next.Order, next.Reason, p.opts.Lease.Microseconds()).Scan(&at)
		if errors.Is(err, sql.ErrNoRows) {
			return errMoved
		}
		if err != nil {
			return err
		}
		next.UpdatedAt = time.UnixMicro(at).UTC()
		return publish(ctx, tx, next)
	})
	if err == nil {
		*pay = next
	}
	return err
}

// lock keeps a payment's row until the transaction ends, if it is still what this worker has
// seen.
func (p *Payments) lock(ctx context.Context, tx *sqldb.Tx, pay *Payment) error {
	var same bool
	err := tx.Row(ctx, `SELECT state = $2 AND giving_up = $3 FROM payments WHERE id = $1`+tx.ForUpdate(),
		pay.ID, string(pay.State), pay.givingUp).Scan(&same)
	if err == nil && !same {
		return errMoved
	}
	return err
}

// giveUp decides, before the provider is told, that nobody confirms this payment any more.
func (p *Payments) giveUp(ctx context.Context, pay *Payment) error {
	if pay.givingUp {
		return nil
	}
	err := p.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		if err := p.lock(ctx, tx, pay); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE payments SET giving_up = TRUE WHERE id = $1`, pay.ID)
		return err
	})
	if err == nil {
		pay.givingUp = true
	}
	return err
}
