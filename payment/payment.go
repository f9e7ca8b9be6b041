// Package payment accepts a payment once and settles it, or takes it back, whatever dies on
// the way.
//
// Promised: a payment that Accept returned becomes captured together with an order for what it
// pays for, or ends as voided, refunded or failed, and then the buyer has paid nothing. At most
// one authorisation and one capture happen at the provider. A request with one key is accepted
// once; its repeats get the same bytes until the key expires. Of one hold there is at most one
// payment that is not over. States only go forward; the database refuses anything else.
//
//	pending → capturing → captured
//	   └────→ voided | refunded | failed     (capturing → failed: refused, or refunded by hand)
//
// Pending lasts until the provider has authorised the payment and the order is made, which is one
// commit. Authorised, between the two, is a state of payments that an earlier version has begun.
//
// Not promised: when. As long as the provider does not answer, a payment stays where it is and
// is asked about again, at growing intervals.
//
// It rests on the provider's keeping of the Provider contract, and on SQL alone: no promise
// depends on a store's class. A timeout is resolved by asking (Lookup), never by assuming.
// Nothing is claimed ahead of the work, and no SQL transaction is open while the provider is
// asked.
//
// Retries: Accept is idempotent by its key. Cost: Accept is one transaction; a settled payment
// is two more and two calls of the provider.
package payment

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/holdfast-dev/holdfast/internal/idem"
	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// What can come back, beside the errors of sqldb.
var (
	// ErrNotFound: there is no such payment.
	ErrNotFound = errors.New("payment: not found")
	// ErrHoldGone: what was to be paid for is not held any more. Nothing was accepted.
	ErrHoldGone = errors.New("payment: hold is gone")
	// ErrHoldPaid: another payment for it is on its way or done. Nothing was accepted.
	ErrHoldPaid = errors.New("payment: hold has a payment")
	// ErrAmount: amount or currency differ from the price. Nothing was accepted.
	ErrAmount = errors.New("payment: amount differs from the price")
	// ErrKeyReused: the key belongs to another request. Nothing was accepted.
	ErrKeyReused = errors.New("payment: idempotency key was used for another request")
	// ErrInFlight: a request with this key is running. Repeat it with the same key.
	ErrInFlight = errors.New("payment: a request with this key is running")
	// ErrClosed: the payments were closed.
	ErrClosed = errors.New("payment: closed")
)

// InvalidError says which field of a request cannot be accepted.
type InvalidError struct{ Field, Reason string }

func (e *InvalidError) Error() string {
	return fmt.Sprintf("payment: %s %s", e.Field, e.Reason)
}

// State of a payment.
type State string

// The states; see the package comment.
const (
	Pending    State = "pending"
	Authorised State = "authorised"
	Capturing  State = "capturing"
	Captured   State = "captured"
	Voided     State = "voided"
	Refunded   State = "refunded"
	Failed     State = "failed"
)

// Final says whether nothing more will happen.
func (s State) Final() bool {
	switch s {
	case Captured, Voided, Refunded, Failed:
		return true
	}
	return false
}

// Payment is one payment. Amount is in minor units.
type Payment struct {
	ID        string    `json:"id"`
	Hold      string    `json:"hold"`
	Buyer     string    `json:"buyer"`
	Amount    int64     `json:"amount"`
	Currency  string    `json:"currency"`
	State     State     `json:"state"`
	Order     string    `json:"order,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`

	source   string
	givingUp bool // it is being taken back: nobody confirms it any more
	attempts int
	known    any // what the goods know of it; see Claim
}

func (p Payment) claim() Claim {
	return Claim{Payment: p.ID, Hold: p.Hold, Buyer: p.Buyer, Amount: p.Amount, Currency: p.Currency, Known: p.known}
}

// Topic is the outbox topic of payments' events; their kinds are "payment." and the state.
const Topic = "payments"

//go:embed migrations
var migrations embed.FS

// Migrations is the schema of payments alone; see Schema.
func Migrations() sqldb.Migrations {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the path above is a constant
	}
	return sqldb.Migrations{Name: "payment", FS: dir}
}

// Schema is all that payments need: what they stand on, and then their own, for
// sqldb.DB.Migrate.
func Schema() []sqldb.Migrations {
	return []sqldb.Migrations{sqldb.Core(), idem.Migrations(), ledger.Migrations(), Migrations()}
}

// Options of New. The zero value works.
type Options struct {
	Workers         int           // payments settled at once by this process; 1..1000, default 16
	ProviderTimeout time.Duration // longest one call of the provider; default 3s
	Lease           time.Duration // how long a worker has a payment for itself, and how long one waits whose process has died; default 4 × ProviderTimeout
	PollEvery       time.Duration // how often to look for payments that another process left; default 500ms
	MinBackoff      time.Duration // first pause after the provider failed, at random half as long to half as long again; default 100ms
	MaxBackoff      time.Duration // longest pause; default 30s
	KeyLife         time.Duration // how long answers are kept for repeats; default 24h
	Logger          *slog.Logger  // default: discard
}

func (o Options) withDefaults() (Options, error) {
	for _, d := range []struct {
		is *time.Duration
		by time.Duration
	}{
		{&o.ProviderTimeout, 3 * time.Second},
		{&o.PollEvery, 500 * time.Millisecond},
		{&o.MinBackoff, 100 * time.Millisecond},
		{&o.MaxBackoff, 30 * time.Second},
		{&o.KeyLife, 24 * time.Hour},
	} {
		if *d.is == 0 {
			*d.is = d.by
		}
		if *d.is < 0 {
			return o, errors.New("payment: a negative duration")
		}
	}
	if o.Lease == 0 {
		o.Lease = 4 * o.ProviderTimeout
	}
	if o.Workers == 0 {
		o.Workers = 16
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Workers < 1 || o.Workers > 1000:
		return o, fmt.Errorf("payment: Workers %d is not in 1..1000", o.Workers)
	case o.Lease < 2*o.ProviderTimeout:
		return o, fmt.Errorf("payment: Lease %s is shorter than two ProviderTimeout %s", o.Lease, o.ProviderTimeout)
	case o.MaxBackoff < o.MinBackoff:
		return o, fmt.Errorf("payment: MaxBackoff %s is shorter than MinBackoff %s", o.MaxBackoff, o.MinBackoff)
	}
	return o, nil
}

// The accounts of one currency. The provider owes us what it authorised for us; clearing holds
// it from the order until the capture; then we owe it to the merchant.
func providerAccount(currency string) string { return "provider:" + currency }
func clearingAccount(currency string) string { return "clearing:" + currency }
func merchantAccount(currency string) string { return "merchant:" + currency }

func accounts(currency string) []ledger.Account {
	return []ledger.Account{
		{ID: clearingAccount(currency), Kind: ledger.Liability, Currency: currency},
		{ID: merchantAccount(currency), Kind: ledger.Liability, Currency: currency},
		{ID: providerAccount(currency), Kind: ledger.Asset, Currency: currency, Overdraft: true},
	}
}
