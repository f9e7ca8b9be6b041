package payment

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-dev/holdfast/internal/idem"
	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// Bounds of a request, in bytes.
const (
	MaxBuyer  = 128
	MaxHold   = 64
	MaxSource = 256
	MaxKey    = 1024
)

// Request asks for a payment. Key is the scope of its idempotency: who asks, for what, under
// which key. Source is what the provider needs to know of the buyer's means (a token).
type Request struct {
	Key      string `json:"-"`
	Hold     string `json:"hold"`
	Buyer    string `json:"buyer"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Source   string `json:"source,omitempty"`
}

// Accepted is a payment that will be settled or taken back. Answer is its JSON as it was first
// given; repeats get the same bytes.
type Accepted struct {
	Payment  Payment
	Answer   []byte
	Replayed bool
}

func (r Request) validate() error {
	_, known := ledger.Currency(r.Currency)
	switch {
	case r.Key == "" || len(r.Key) > MaxKey:
		return &InvalidError{"key", fmt.Sprintf("must have 1..%d bytes", MaxKey)}
	case r.Hold == "" || len(r.Hold) > MaxHold:
		return &InvalidError{"hold", fmt.Sprintf("must have 1..%d bytes", MaxHold)}
	case r.Buyer == "" || len(r.Buyer) > MaxBuyer:
		return &InvalidError{"buyer", fmt.Sprintf("must have 1..%d bytes", MaxBuyer)}
	case len(r.Source) > MaxSource:
		return &InvalidError{"source", fmt.Sprintf("must have at most %d bytes", MaxSource)}
	case strings.ContainsRune(r.Hold+r.Buyer+r.Source, 0):
		return &InvalidError{"hold, buyer or source", "has a zero byte"}
	case r.Amount <= 0 || r.Amount > ledger.MaxAmount:
		return &InvalidError{"amount", "must be 1..2^53 minor units"}
	case !known:
		return &InvalidError{"currency", "is no ISO 4217 code"}
	}
	return nil
}

// Accept takes a payment on: payment, ledger hold, event and stored answer are one commit.
// Errors: ErrHoldGone, ErrHoldPaid, ErrAmount, ErrKeyReused, ErrInFlight, *InvalidError,
// ErrClosed, and those of sqldb. After sqldb.ErrOutcomeUnknown repeat with the same key.
func (p *Payments) Accept(ctx context.Context, r Request) (Accepted, error) {
	if err := r.validate(); err != nil {
		return Accepted{}, err
	}
	if p.stopped() {
		return Accepted{}, ErrClosed
	}
	if err := p.openAccounts(ctx, r.Currency); err != nil {
		return Accepted{}, err
	}
	canonical, err := json.Marshal(r)
	if err != nil {
		return Accepted{}, fmt.Errorf("payment: %w", err)
	}
	key := idem.Key{Scope: r.Key, Request: canonical}
	var a Accepted
	err = p.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		a, err = p.accept(ctx, tx, key, r)
		return err
	})
	if err != nil {
		return Accepted{}, acceptError(err)
	}
	if a.Replayed {
		return a, json.Unmarshal(a.Answer, &a.Payment)
	}
	p.stats.accepted.Add(1)
	p.wake()
	return a, nil
}

func (p *Payments) accept(ctx context.Context, tx *sqldb.Tx, key idem.Key, r Request) (Accepted, error) {
	answer, err := idem.Begin(ctx, tx, key, p.opts.KeyLife)
	if errors.Is(err, sqldb.ErrBusy) {
		return Accepted{}, fmt.Errorf("%w: %w", ErrInFlight, err)
	}
	if err != nil || answer != nil {
		return Accepted{Answer: answer, Replayed: true}, err
	}
	pay, err := p.insert(ctx, tx, r)
	if err != nil {
		return Accepted{}, err
	}
	if err := p.goods.Attach(ctx, tx, pay.claim()); err != nil {
		return Accepted{}, err
	}
	err = post(ctx, tx, ledger.Transfer{
		ID: pay.ID, Debit: providerAccount(r.Currency), Credit: clearingAccount(r.Currency),
		Amount: r.Amount, Currency: r.Currency, Pending: true,
	})
	if err != nil {
		return Accepted{}, err
	}
	if answer, err = json.Marshal(pay); err != nil {
		return Accepted{}, err
	}
	if err := publish(ctx, tx, pay); err != nil {
		return Accepted{}, err
	}
	return Accepted{Payment: pay, Answer: answer}, idem.Finish(ctx, tx, key, answer)
}

func (p *Payments) insert(ctx context.Context, tx *sqldb.Tx, r Request) (Payment, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Payment{}, fmt.Errorf("payment: %w", err)
	}
	pay := Payment{ID: id.String(), Hold: r.Hold, Buyer: r.Buyer, Amount: r.Amount, Currency: r.Currency, State: Pending, source: r.Source}
	var created, updated int64
	err = tx.Row(ctx, `
		INSERT INTO payments (id, hold, buyer, amount, currency, source, state, next_at, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, 'pending', holdfast_now(), holdfast_now(), holdfast_now())
		RETURNING created_at, updated_at`,
		pay.ID, r.Hold, r.Buyer, r.Amount, r.Currency, r.Source).Scan(&created, &updated)
	pay.CreatedAt, pay.UpdatedAt = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
	return pay, err
}

func acceptError(err error) error {
	if errors.Is(err, idem.ErrReused) {
		return fmt.Errorf("%w: %w", ErrKeyReused, err)
	}
	if name, ok := sqldb.Constraint(err); ok && (name == "payments_one_live" || name == "payments.hold") {
		return ErrHoldPaid
	}
	return err
}

// openAccounts makes a currency's accounts when this process meets it first, in a transaction
// of its own: they stay also when the payment is refused.
func (p *Payments) openAccounts(ctx context.Context, currency string) error {
	if _, done := p.currencies.Load(currency); done {
		return nil
	}
	err := p.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		return ledger.Open(ctx, tx, accounts(currency)...)
	})
	if err == nil {
		p.currencies.Store(currency, true)
	}
	return err
}

// post applies one operation to the ledger that cannot be refused unless the books are wrong.
func post(ctx context.Context, tx *sqldb.Tx, op ledger.Op) error {
	out, err := ledger.Apply(ctx, tx, op)
	if err == nil {
		err = out[0].Err
	}
	if err != nil {
		return fmt.Errorf("payment: ledger: %w", err)
	}
	return nil
}

func publish(ctx context.Context, tx *sqldb.Tx, p Payment) error {
	payload, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return tx.Publish(ctx, Topic, "payment."+string(p.State), payload)
}

const columns = `id, hold, buyer, amount, currency, source, state, order_id, reason, giving_up, attempts, created_at, updated_at`

type scanner interface{ Scan(...any) error }

func scan(row scanner) (Payment, error) {
	var p Payment
	var created, updated int64
	err := row.Scan(&p.ID, &p.Hold, &p.Buyer, &p.Amount, &p.Currency, &p.source, &p.State,
		&p.Order, &p.Reason, &p.givingUp, &p.attempts, &created, &updated)
	p.CreatedAt, p.UpdatedAt = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
	return p, err
}

// Get returns a payment as it is now. Errors: ErrNotFound, and those of sqldb.
func (p *Payments) Get(ctx context.Context, id string) (pay Payment, err error) {
	err = p.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		pay, err = scan(tx.Row(ctx, `SELECT `+columns+` FROM payments WHERE id = $1`, id))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return Payment{}, ErrNotFound
	}
	return pay, err
}
