package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// maxFindings bounds a report, for each kind of finding.
const maxFindings = 20

// Report is what Check found.
type Report struct {
	Accounts, Transfers, Entries int64
	Findings                     []string // empty when the books are right
}

// OK says whether the books are right.
func (r Report) OK() bool { return len(r.Findings) == 0 }

// Check goes through the books in one snapshot: the sum of entries is zero for each transfer
// and each currency, balances equal entries and pending transfers, posted transfers have their
// entries, and nothing is pending longer than grace past its expiry. It reads everything.
func Check(ctx context.Context, db *sqldb.DB, grace time.Duration) (Report, error) {
	var r Report
	err := db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		r = Report{}
		err := tx.Row(ctx, `SELECT (SELECT count(*) FROM ledger_accounts), (SELECT count(*) FROM ledger_transfers),
			(SELECT count(*) FROM ledger_entries)`).Scan(&r.Accounts, &r.Transfers, &r.Entries)
		if err != nil {
			return err
		}
		for _, c := range checks {
			args := []any{}
			if c.grace {
				args = append(args, grace.Microseconds())
			}
			err := each(ctx, tx, func(rows *sql.Rows) error {
				var what string
				err := rows.Scan(&what)
				r.Findings = append(r.Findings, c.says+": "+what)
				return err
			}, fmt.Sprintf("%s LIMIT %d", c.query, maxFindings), args...)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return r, err
}

// checks are queries that return what is wrong.
var checks = []struct {
	says, query string
	grace       bool
}{
	{says: "entries of a transfer do not sum to zero", query: `
		SELECT transfer_id || ' ' || step_id FROM ledger_entries
		GROUP BY transfer_id, step_id HAVING sum(amount) <> 0 OR count(*) <> 2`},
	{says: "entries of a currency do not sum to zero", query: `
		SELECT a.currency FROM ledger_entries e JOIN ledger_accounts a ON a.id = e.account_id
		GROUP BY a.currency HAVING sum(e.amount) <> 0`},
	{says: "balance differs from entries", query: `
		SELECT a.id FROM ledger_accounts a LEFT JOIN (
			SELECT account_id, sum(CASE WHEN amount > 0 THEN amount ELSE 0 END) AS debits,
				sum(CASE WHEN amount < 0 THEN -amount ELSE 0 END) AS credits
			FROM ledger_entries GROUP BY account_id) e ON e.account_id = a.id
		WHERE a.posted_debits <> coalesce(e.debits, 0) OR a.posted_credits <> coalesce(e.credits, 0)`},
	{says: "pending balance differs from pending transfers", query: `
		SELECT a.id FROM ledger_accounts a
		WHERE a.pending_debits <> (SELECT coalesce(sum(amount), 0) FROM ledger_transfers t WHERE t.debit = a.id AND t.state = 'pending')
		OR a.pending_credits <> (SELECT coalesce(sum(amount), 0) FROM ledger_transfers t WHERE t.credit = a.id AND t.state = 'pending')`},
	{says: "transfer and entries differ", query: `
		SELECT t.id FROM ledger_transfers t LEFT JOIN (
			SELECT transfer_id, account_id, sum(amount) AS net FROM ledger_entries GROUP BY transfer_id, account_id) e
			ON e.transfer_id = t.id AND e.account_id = t.debit
		WHERE coalesce(e.net, 0) <> t.posted - t.refunded`},
	{says: "pending past its expiry", grace: true, query: `
		SELECT id FROM ledger_transfers WHERE state = 'pending' AND expires_at > 0 AND expires_at <= holdfast_now() - $1`},
}
