package drill

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib" // database/sql driver "pgx"
	_ "modernc.org/sqlite"             // database/sql driver "sqlite"
)

// openDB opens a database by the drill's own connection.
func openDB(raw string) (*sql.DB, error) {
	driver, source := "pgx", raw
	if !isPostgres(raw) {
		// The file is there, and nobody else has it open any more.
		u := url.URL{Scheme: "file", Path: localPath(raw, "sqlite:"), RawQuery: "mode=rw"}
		driver, source = "sqlite", u.String()
		if !strings.HasPrefix(u.Path, "/") {
			source = "file:" + (&url.URL{Path: u.Path}).EscapedPath() + "?mode=rw"
		}
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		return nil, fmt.Errorf("drill: database: %w", err)
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

func execute(ctx context.Context, raw, statement string) error {
	db, err := openDB(raw)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("drill: database: %w", err)
	}
	return nil
}

// readRows reads all that the servers wrote to the run's own database.
func readRows(ctx context.Context, raw string, e *evidence) (err error) {
	db, err := openDB(raw)
	if err != nil {
		return err
	}
	defer db.Close()
	r := reader{ctx: ctx, db: db}
	r.each(`SELECT stock, held, sold, version FROM sales WHERE id = '`+e.SaleID+`'`, func(scan scanner) error {
		return scan(&e.Sale.Stock, &e.Sale.Held, &e.Sale.Sold, &e.Sale.Version)
	})
	r.each(`SELECT payload FROM outbox WHERE kind = 'stock' AND topic = 'sale:`+e.SaleID+`'`, func(scan scanner) error {
		var payload []byte
		err := scan(&payload)
		e.Events = append(e.Events, parse[stockEvent](string(payload)))
		return err
	})
	r.each(`SELECT id, sale, buyer, permit, state, payment, created_at, expires_at, changed_at FROM holds`, func(scan scanner) error {
		var h holdRow
		err := scan(&h.ID, &h.Sale, &h.Buyer, &h.Permit, &h.State, &h.Payment, &h.CreatedAt, &h.ExpiresAt, &h.ChangedAt)
		e.Holds = append(e.Holds, h)
		return err
	})
	r.each(`SELECT buyer, taken, cap FROM sale_buyers`, func(scan scanner) error {
		var b buyerRow
		err := scan(&b.Buyer, &b.Taken, &b.Cap)
		e.Buyers = append(e.Buyers, b)
		return err
	})
	r.each(`SELECT id, hold, buyer, payment, amount, currency, state FROM orders`, func(scan scanner) error {
		var o orderRow
		err := scan(&o.ID, &o.Hold, &o.Buyer, &o.Payment, &o.Amount, &o.Currency, &o.State)
		e.Orders = append(e.Orders, o)
		return err
	})
	r.money(e)
	return r.err
}

func (r *reader) money(e *evidence) {
	r.each(`SELECT id, hold, buyer, amount, currency, state, order_id, reason FROM payments`, func(scan scanner) error {
		var p paymentRow
		err := scan(&p.ID, &p.Hold, &p.Buyer, &p.Amount, &p.Currency, &p.State, &p.Order, &p.Reason)
		e.Payments = append(e.Payments, p)
		return err
	})
	r.each(`SELECT scope, answer FROM idempotency_keys`, func(scan scanner) error {
		var scope, answer []byte
		err := scan(&scope, &answer)
		e.Answers = append(e.Answers, storedAnswer{hex.EncodeToString(scope), string(answer)})
		return err
	})
	r.each(`SELECT id, currency, posted_debits, posted_credits, pending_debits, pending_credits FROM ledger_accounts`, func(scan scanner) error {
		var a accountRow
		err := scan(&a.ID, &a.Currency, &a.PostedDebits, &a.PostedCredits, &a.PendingDebits, &a.PendingCredits)
		e.Accounts = append(e.Accounts, a)
		return err
	})
	r.each(`SELECT transfer_id, step_id, account_id, amount FROM ledger_entries`, func(scan scanner) error {
		var en entryRow
		err := scan(&en.Transfer, &en.Step, &en.Account, &en.Amount)
		e.Entries = append(e.Entries, en)
		return err
	})
	r.each(`SELECT id, state FROM ledger_transfers`, func(scan scanner) error {
		var t transferRow
		err := scan(&t.ID, &t.State)
		e.Transfers = append(e.Transfers, t)
		return err
	})
}

type scanner func(...any) error

// reader runs queries until the first error.
type reader struct {
	ctx context.Context
	db  *sql.DB
	err error
}

func (r *reader) each(query string, row func(scan scanner) error) {
	if r.err != nil {
		return
	}
	rows, err := r.db.QueryContext(r.ctx, query)
	if err != nil {
		r.err = fmt.Errorf("drill: database: %w", err)
		return
	}
	defer rows.Close()
	for rows.Next() && r.err == nil {
		r.err = row(rows.Scan)
	}
	if r.err == nil {
		r.err = rows.Err()
	}
	if r.err != nil {
		r.err = fmt.Errorf("drill: database: %w", r.err)
	}
}
