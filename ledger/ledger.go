// Package ledger keeps accounts and moves money between them by double entry, in SQL.
//
// Promised: every transfer is in the books on two sides or not at all, so the sum of all
// entries is zero; an account that may not be overdrawn never is, counting what is pending;
// an operation with one id has one effect, however often it is repeated; a transfer's state
// only goes forward, and entries are never changed or deleted. The database's own constraints
// and triggers hold all of this, also against a program with a mistake.
//
// Not promised: an order among transfers of concurrent transactions.
//
// Everything happens in the caller's transaction, so that it commits with what it belongs to;
// nothing is kept when that is rolled back. Retries are safe: an operation is idempotent by
// its id.
//
// Amounts are integers in minor units (cents), 1 to 2^53. Debits count up an asset, credits
// a liability.
//
// Cost: an Apply is one statement that locks the accounts, in the order of their ids, one or
// two that look what is there, and the writes.
package ledger

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf8"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// What an operation can be refused for. Nothing was written for that operation.
var (
	// ErrInsufficient: an account that may not be overdrawn would be.
	ErrInsufficient = errors.New("ledger: insufficient funds")
	// ErrConflict: the id belongs to something else.
	ErrConflict = errors.New("ledger: id is taken by something else")
	// ErrNotFound: there is no such account or transfer.
	ErrNotFound = errors.New("ledger: not found")
	// ErrState: the transfer is not in a state for this: posted, voided or expired already,
	// or less is left than was asked for.
	ErrState = errors.New("ledger: transfer is not in that state")
	// ErrCurrency: the accounts have another currency.
	ErrCurrency = errors.New("ledger: currency differs")
	// ErrInvalid: the operation makes no sense (amount, ids, currency).
	ErrInvalid = errors.New("ledger: invalid")
)

// MaxAmount is the largest amount of an operation: what JSON carries exactly everywhere.
const MaxAmount = 1 << 53

// MaxTurnover is the largest sum that an account takes on one side, ever: a billion units a
// second for 146 years.
const MaxTurnover = 1 << 62

const maxID = 200

//go:embed migrations
var migrations embed.FS

// Migrations is the ledger's schema.
func Migrations() sqldb.Migrations {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the path above is a constant
	}
	return sqldb.Migrations{Name: "ledger", FS: dir}
}

// Kind says on which side an account counts up.
type Kind string

// The kinds of accounts.
const (
	Asset     Kind = "asset"     // debits count up: what others owe us
	Liability Kind = "liability" // credits count up: what we owe others
)

// Account is where money is. Overdraft: its balance may be below zero.
type Account struct {
	ID        string
	Kind      Kind
	Currency  string
	Overdraft bool
}

func (a Account) validate() error {
	if a.ID == "" || len(a.ID) > maxID || !text(a.ID) {
		return fmt.Errorf("%w: an account's id is text of 1..%d bytes", ErrInvalid, maxID)
	}
	if a.Kind != Asset && a.Kind != Liability {
		return fmt.Errorf("%w: kind %q", ErrInvalid, a.Kind)
	}
	if _, ok := Currency(a.Currency); !ok {
		return fmt.Errorf("%w: %q is no ISO 4217 code", ErrInvalid, a.Currency)
	}
	return nil
}

// Open makes accounts that do not exist yet. It is idempotent. Errors: ErrInvalid, ErrConflict
// when an account of that id is of another kind.
func Open(ctx context.Context, tx *sqldb.Tx, accounts ...Account) error {
	for _, a := range accounts {
		if err := a.validate(); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO ledger_accounts (id, kind, currency, overdraft, created_at)
			VALUES ($1, $2, $3, $4, holdfast_now()) ON CONFLICT (id) DO NOTHING`,
			a.ID, string(a.Kind), a.Currency, a.Overdraft)
		if err != nil {
			return err
		}
		found := Account{ID: a.ID}
		err = tx.Row(ctx, `SELECT kind, currency, overdraft FROM ledger_accounts WHERE id = $1`, a.ID).
			Scan(&found.Kind, &found.Currency, &found.Overdraft)
		if err != nil {
			return err
		}
		if found != a {
			return fmt.Errorf("%w: account %q", ErrConflict, a.ID)
		}
	}
	return nil
}

// Balances are an account's sums, in minor units.
type Balances struct {
	PostedDebits, PostedCredits   int64
	PendingDebits, PendingCredits int64
}

// Balance returns an account's sums. Errors: ErrNotFound.
func Balance(ctx context.Context, tx *sqldb.Tx, account string) (Balances, error) {
	all, err := load(ctx, tx, []string{account}, "")
	if err != nil {
		return Balances{}, err
	}
	a := all.accounts[account]
	if a == nil {
		return Balances{}, fmt.Errorf("%w: account %q", ErrNotFound, account)
	}
	return a.Balances, nil
}

// Op is a Transfer, Post, Void or Refund.
type Op interface {
	id() string
	validate() error
}

// Transfer moves Amount from Credit to Debit (it debits the one and credits the other). With
// Pending it is only held, counted against the accounts, until it is posted, voided, or past
// ExpiresAt (µs by the engine's clock; 0 for never).
type Transfer struct {
	ID, Debit, Credit string
	Amount            int64
	Currency          string
	Pending           bool
	ExpiresAt         int64
}

// Post makes a pending transfer final, with Amount of it or all (0); the rest is released.
type Post struct {
	ID, Transfer string
	Amount       int64
}

// Void releases a pending transfer.
type Void struct{ ID, Transfer string }

// Refund moves Amount of a posted transfer back, or all that is left (0).
type Refund struct {
	ID, Transfer string
	Amount       int64
}

func (o Transfer) id() string { return o.ID }
func (o Post) id() string     { return o.ID }
func (o Void) id() string     { return o.ID }
func (o Refund) id() string   { return o.ID }

func (o Transfer) validate() error {
	switch {
	case o.Amount <= 0 || o.Amount > MaxAmount:
		return fmt.Errorf("%w: amount %d is not in 1..2^53", ErrInvalid, o.Amount)
	case !text(o.Debit) || !text(o.Credit):
		return fmt.Errorf("%w: an account's id is text", ErrInvalid)
	case o.Debit == o.Credit:
		return fmt.Errorf("%w: a transfer needs two accounts", ErrInvalid)
	case o.ExpiresAt < 0 || (o.ExpiresAt > 0 && !o.Pending):
		return fmt.Errorf("%w: only a pending transfer expires", ErrInvalid)
	}
	return validID(o.ID)
}

func (o Post) validate() error   { return validStep(o.ID, o.Transfer, o.Amount) }
func (o Void) validate() error   { return validStep(o.ID, o.Transfer, 0) }
func (o Refund) validate() error { return validStep(o.ID, o.Transfer, o.Amount) }

func validStep(id, transfer string, amount int64) error {
	if amount < 0 || amount > MaxAmount {
		return fmt.Errorf("%w: amount %d is not in 0..2^53", ErrInvalid, amount)
	}
	return errors.Join(validID(id), validID(transfer))
}

func validID(id string) error {
	if id == "" || len(id) > maxID || !text(id) {
		return fmt.Errorf("%w: an id is text of 1..%d bytes", ErrInvalid, maxID)
	}
	return nil
}

// text is what every database takes as such.
func text(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// Outcome is what became of one operation. Err is nil or one of the package's errors; Replayed
// says that the same operation was done before.
type Outcome struct {
	Err      error
	Replayed bool
}
