package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// books is what one Apply has loaded and is about to write.
type books struct {
	now       int64
	accounts  map[string]*accountRow
	transfers map[string]*transferRow
	steps     map[string]stepRow

	newTransfers []*transferRow
	newSteps     []stepRow
	entries      []entryRow
}

type accountRow struct {
	Account
	Balances
	changed bool
}

type transferRow struct {
	Transfer
	state            string
	posted, refunded int64
	fresh, changed   bool
}

type stepRow struct {
	id, transfer, step string
	amount             int64
}

type entryRow struct {
	transfer, step, account string
	amount                  int64
}

// list sorts ids, drops doubles, and makes "($1, $2, …)" of them.
func list(ids []string) (in string, args []any) {
	var marks []string
	for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
		args = append(args, id)
		marks = append(marks, fmt.Sprintf("$%d", len(args)))
	}
	return "(" + strings.Join(marks, ", ") + ")", args
}

// load reads accounts in the order of their ids, which is the order in which they are locked.
func load(ctx context.Context, tx *sqldb.Tx, ids []string, lock string) (*books, error) {
	b := &books{accounts: map[string]*accountRow{}, transfers: map[string]*transferRow{}, steps: map[string]stepRow{}}
	if len(ids) == 0 {
		return b, nil
	}
	in, args := list(ids)
	return b, each(ctx, tx, func(rows *sql.Rows) error {
		a := &accountRow{}
		err := rows.Scan(&a.ID, &a.Kind, &a.Currency, &a.Overdraft,
			&a.PostedDebits, &a.PostedCredits, &a.PendingDebits, &a.PendingCredits, &b.now)
		b.accounts[a.ID] = a
		return err
	}, `SELECT id, kind, currency, overdraft, posted_debits, posted_credits, pending_debits, pending_credits,
		holdfast_now() FROM ledger_accounts WHERE id IN `+in+` ORDER BY id`+lock, args...)
}

func loadTransfers(ctx context.Context, tx *sqldb.Tx, ids []string, lock string) (map[string]*transferRow, error) {
	found := map[string]*transferRow{}
	if len(ids) == 0 {
		return found, nil
	}
	in, args := list(ids)
	return found, each(ctx, tx, func(rows *sql.Rows) error {
		t := &transferRow{}
		err := rows.Scan(&t.ID, &t.Debit, &t.Credit, &t.Amount, &t.Currency, &t.Pending, &t.ExpiresAt,
			&t.state, &t.posted, &t.refunded)
		found[t.ID] = t
		return err
	}, `SELECT id, debit, credit, amount, currency, two_phase, expires_at, state, posted, refunded
		FROM ledger_transfers WHERE id IN `+in+` ORDER BY id`+lock, args...)
}

func loadSteps(ctx context.Context, tx *sqldb.Tx, ids []string) (map[string]stepRow, error) {
	found := map[string]stepRow{}
	if len(ids) == 0 {
		return found, nil
	}
	in, args := list(ids)
	return found, each(ctx, tx, func(rows *sql.Rows) error {
		var s stepRow
		err := rows.Scan(&s.id, &s.transfer, &s.step, &s.amount)
		found[s.id] = s
		return err
	}, `SELECT id, transfer_id, step, amount FROM ledger_steps WHERE id IN `+in, args...)
}

func each(ctx context.Context, tx *sqldb.Tx, row func(*sql.Rows) error, query string, args ...any) error {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func texts(ctx context.Context, tx *sqldb.Tx, query string, args ...any) (all []string, err error) {
	err = each(ctx, tx, func(rows *sql.Rows) error {
		var s string
		err := rows.Scan(&s)
		all = append(all, s)
		return err
	}, query, args...)
	return all, err
}

// write writes what was decided.
func (b *books) write(ctx context.Context, tx *sqldb.Tx) error {
	for _, write := range []func(context.Context, *sqldb.Tx) error{
		b.writeTransfers, b.writeSteps, b.writeEntries, b.writeAccounts,
	} {
		if err := write(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}

func (b *books) writeTransfers(ctx context.Context, tx *sqldb.Tx) error {
	for _, t := range b.newTransfers {
		_, err := tx.Exec(ctx, `
			INSERT INTO ledger_transfers (id, debit, credit, amount, currency, two_phase, state, posted, refunded, expires_at, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, holdfast_now())`,
			t.ID, t.Debit, t.Credit, t.Amount, t.Currency, t.Pending, t.state, t.posted, t.refunded, t.ExpiresAt)
		if err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(b.transfers)) {
		t := b.transfers[id]
		if !t.changed || t.fresh {
			continue // a fresh one was written as it is now
		}
		_, err := tx.Exec(ctx, `UPDATE ledger_transfers SET state = $2, posted = $3, refunded = $4 WHERE id = $1`,
			t.ID, t.state, t.posted, t.refunded)
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *books) writeSteps(ctx context.Context, tx *sqldb.Tx) error {
	for _, s := range b.newSteps {
		_, err := tx.Exec(ctx, `INSERT INTO ledger_steps (id, transfer_id, step, amount, created_at)
			VALUES ($1, $2, $3, $4, holdfast_now())`, s.id, s.transfer, s.step, s.amount)
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *books) writeEntries(ctx context.Context, tx *sqldb.Tx) error {
	for _, e := range b.entries {
		_, err := tx.Exec(ctx, `INSERT INTO ledger_entries (transfer_id, step_id, account_id, amount, created_at)
			VALUES ($1, $2, $3, $4, holdfast_now())`, e.transfer, e.step, e.account, e.amount)
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *books) writeAccounts(ctx context.Context, tx *sqldb.Tx) error {
	accounts := slices.SortedFunc(maps.Values(b.accounts), func(x, y *accountRow) int { return cmp.Compare(x.ID, y.ID) })
	for _, a := range accounts {
		if !a.changed {
			continue
		}
		_, err := tx.Exec(ctx, `
			UPDATE ledger_accounts SET posted_debits = $2, posted_credits = $3, pending_debits = $4, pending_credits = $5
			WHERE id = $1`, a.ID, a.PostedDebits, a.PostedCredits, a.PendingDebits, a.PendingCredits)
		if err != nil {
			return err
		}
	}
	return nil
}
