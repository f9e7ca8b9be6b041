package ledger

import (
	"context"
	"database/sql"
	"maps"
	"slices"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// books is what one Apply has loaded and is about to write.
type books struct {
	now       int64
	accounts  map[string]*accountRow
	transfers map[string]*transferRow
	steps     map[string]stepRow

	newSteps []stepRow
	entries  []entryRow
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

// names is a list of ids.
func names(ids []string) (list sqldb.Rows) {
	for _, id := range ids {
		list.Add(id)
	}
	return list
}

// among limits a query to the ids in $1.
func among(tx *sqldb.Tx) string { return `IN (SELECT id FROM ` + tx.List("$1", "id text") + `)` }

// load reads accounts in the order of their ids, which is the order in which they are locked.
func load(ctx context.Context, tx *sqldb.Tx, ids []string, lock string) (*books, error) {
	b := &books{accounts: map[string]*accountRow{}, transfers: map[string]*transferRow{}, steps: map[string]stepRow{}}
	if len(ids) == 0 {
		return b, nil
	}
	return b, each(ctx, tx, func(rows *sql.Rows) error {
		a := &accountRow{}
		err := rows.Scan(&a.ID, &a.Kind, &a.Currency, &a.Overdraft,
			&a.PostedDebits, &a.PostedCredits, &a.PendingDebits, &a.PendingCredits, &b.now)
		b.accounts[a.ID] = a
		return err
	}, `SELECT id, kind, currency, overdraft, posted_debits, posted_credits, pending_debits, pending_credits,
		holdfast_now() FROM ledger_accounts WHERE id `+among(tx)+` ORDER BY id`+lock, names(ids))
}

func loadTransfers(ctx context.Context, tx *sqldb.Tx, ids []string, lock string) (map[string]*transferRow, error) {
	found := map[string]*transferRow{}
	if len(ids) == 0 {
		return found, nil
	}
	return found, each(ctx, tx, func(rows *sql.Rows) error {
		t := &transferRow{}
		err := rows.Scan(&t.ID, &t.Debit, &t.Credit, &t.Amount, &t.Currency, &t.Pending, &t.ExpiresAt,
			&t.state, &t.posted, &t.refunded)
		found[t.ID] = t
		return err
	}, `SELECT id, debit, credit, amount, currency, two_phase, expires_at, state, posted, refunded
		FROM ledger_transfers WHERE id `+among(tx)+` ORDER BY id`+lock, names(ids))
}

func loadSteps(ctx context.Context, tx *sqldb.Tx, ids []string) (map[string]stepRow, error) {
	found := map[string]stepRow{}
	if len(ids) == 0 {
		return found, nil
	}
	return found, each(ctx, tx, func(rows *sql.Rows) error {
		var s stepRow
		err := rows.Scan(&s.id, &s.transfer, &s.step, &s.amount)
		found[s.id] = s
		return err
	}, `SELECT id, transfer_id, step, amount FROM ledger_steps WHERE id `+among(tx), names(ids))
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

// change runs a statement on a list of rows, if there are any.
func change(ctx context.Context, tx *sqldb.Tx, rows sqldb.Rows, query string) error {
	if len(rows) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, query, rows)
	return err
}

func (b *books) writeTransfers(ctx context.Context, tx *sqldb.Tx) error {
	var fresh, changed sqldb.Rows
	for _, id := range slices.Sorted(maps.Keys(b.transfers)) {
		switch t := b.transfers[id]; {
		case t.fresh:
			fresh.Add(t.ID, t.Debit, t.Credit, t.Amount, t.Currency, t.Pending, t.state, t.posted, t.refunded, t.ExpiresAt)
		case t.changed:
			changed.Add(t.ID, t.state, t.posted, t.refunded)
		}
	}
	err := change(ctx, tx, fresh, `
		INSERT INTO ledger_transfers (id, debit, credit, amount, currency, two_phase, state, posted, refunded, expires_at, created_at)
		SELECT id, debit, credit, amount, currency, two_phase, state, posted, refunded, expires_at, holdfast_now() FROM `+
		tx.List("$1", "id text", "debit text", "credit text", "amount bigint", "currency text", "two_phase boolean",
			"state text", "posted bigint", "refunded bigint", "expires_at bigint"))
	if err != nil {
		return err
	}
	return change(ctx, tx, changed, `
		UPDATE ledger_transfers SET state = list.state, posted = list.posted, refunded = list.refunded
		FROM `+tx.List("$1", "id text", "state text", "posted bigint", "refunded bigint")+`
		WHERE ledger_transfers.id = list.id`)
}

func (b *books) writeSteps(ctx context.Context, tx *sqldb.Tx) error {
	var rows sqldb.Rows
	for _, s := range b.newSteps {
		rows.Add(s.id, s.transfer, s.step, s.amount)
	}
	return change(ctx, tx, rows, `
		INSERT INTO ledger_steps (id, transfer_id, step, amount, created_at)
		SELECT id, transfer, step, amount, holdfast_now() FROM `+
		tx.List("$1", "id text", "transfer text", "step text", "amount bigint"))
}

func (b *books) writeEntries(ctx context.Context, tx *sqldb.Tx) error {
	var rows sqldb.Rows
	for _, e := range b.entries {
		rows.Add(e.transfer, e.step, e.account, e.amount)
	}
	return change(ctx, tx, rows, `
		INSERT INTO ledger_entries (transfer_id, step_id, account_id, amount, created_at)
		SELECT transfer, step, account, amount, holdfast_now() FROM `+
		tx.List("$1", "transfer text", "step text", "account text", "amount bigint"))
}

func (b *books) writeAccounts(ctx context.Context, tx *sqldb.Tx) error {
	var rows sqldb.Rows
	for _, id := range slices.Sorted(maps.Keys(b.accounts)) {
		if a := b.accounts[id]; a.changed {
			rows.Add(a.ID, a.PostedDebits, a.PostedCredits, a.PendingDebits, a.PendingCredits)
		}
	}
	return change(ctx, tx, rows, `
		UPDATE ledger_accounts SET posted_debits = list.posted_debits, posted_credits = list.posted_credits,
			pending_debits = list.pending_debits, pending_credits = list.pending_credits
		FROM `+tx.List("$1", "id text", "posted_debits bigint", "posted_credits bigint",
		"pending_debits bigint", "pending_credits bigint")+`
		WHERE ledger_accounts.id = list.id`)
}
