package payment

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

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
	case !text(r.Hold):
		return &InvalidError{"hold", "must be text"}
	case !text(r.Buyer):
		return &InvalidError{"buyer", "must be text"}
	case !text(r.Source):
		return &InvalidError{"source", "must be text"}
	case r.Amount <= 0 || r.Amount > ledger.MaxAmount:
		return &InvalidError{"amount", "must be 1..2^53 minor units"}
	case !known:
		return &InvalidError{"currency", "is no ISO 4217 code"}
	}
	return nil
}

// text is what every database takes as such.
func text(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

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
	if !p.gate.Enter() {
		return Accepted{}, sqldb.ErrCrowded
	}
	a, err := p.accepting.Do(ctx, application{r, idem.Key{Scope: r.Key, Request: canonical}})
	p.gate.Leave(!fault(err)) // what fails at once is no throughput
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

// application is a request on its way.
type application struct {
	Request
	key idem.Key
}

// accept decides requests, and commits what is accepted together. It locks keys, holds and
// accounts, in this order and each sorted, so that two servers cannot wait for each other.
func (p *Payments) accept(ctx context.Context, tx *sqldb.Tx, in []application) ([]sqldb.Outcome[Accepted], error) {
	keys := make([]idem.Key, len(in))
	for i, a := range in {
		keys[i] = a.key
	}
	begun, err := idem.Begin(ctx, tx, p.opts.KeyLife, keys...)
	if errors.Is(err, sqldb.ErrBusy) && len(in) == 1 {
		err = fmt.Errorf("%w: %w", ErrInFlight, err)
	}
	if err != nil {
		return nil, err
	}
	out := make([]sqldb.Outcome[Accepted], len(in))
	var fresh []int
	for i, b := range begun {
		if b.Fresh() {
			fresh = append(fresh, i)
		}
	}
	if len(fresh) > 0 {
		if err := p.acceptFresh(ctx, tx, in, fresh, out); err != nil {
			return nil, err
		}
	}
	for i, b := range begun {
		switch {
		case b.Err != nil:
			out[i].Err = b.Err
		case b.Answer != nil:
			out[i].Value = Accepted{Answer: b.Answer, Replayed: true}
		case b.Twin >= 0:
			out[i] = out[b.Twin]
			out[i].Value.Replayed = out[i].Err == nil
		}
	}
	return out, nil
}

// acceptFresh decides those requests that are new.
func (p *Payments) acceptFresh(ctx context.Context, tx *sqldb.Tx, in []application, fresh []int, out []sqldb.Outcome[Accepted]) error {
	now, err := tx.Now(ctx)
	if err != nil {
		return err
	}
	pays, claims := make([]Payment, len(fresh)), make([]Claim, len(fresh))
	for n, i := range fresh {
		if pays[n], err = newPayment(in[i].Request, now); err != nil {
			return err
		}
		claims[n] = pays[n].claim()
	}
	refused, err := p.goods.Attach(ctx, tx, claims)
	if err != nil {
		return err
	}
	done := make([]idem.Done, len(fresh))
	var taken []Payment
	var holds []ledger.Op
	for n, i := range fresh {
		done[n].Key = in[i].key
		if out[i].Err = refused[n]; refused[n] != nil {
			continue
		}
		pay := pays[n]
		if done[n].Answer, err = json.Marshal(pay); err != nil {
			return err
		}
		out[i].Value = Accepted{Payment: pay, Answer: done[n].Answer}
		taken = append(taken, pay)
		holds = append(holds, ledger.Transfer{
			ID: pay.ID, Debit: providerAccount(pay.Currency), Credit: clearingAccount(pay.Currency),
			Amount: pay.Amount, Currency: pay.Currency, Pending: true,
		})
	}
	if err := insert(ctx, tx, taken); err != nil {
		return err
	}
	if err := publish(ctx, tx, taken...); err != nil {
		return err
	}
	if err := idem.Finish(ctx, tx, done...); err != nil {
		return err
	}
	return post(ctx, tx, holds...) // last: everybody waits for the accounts
}

func newPayment(r Request, now int64) (Payment, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Payment{}, fmt.Errorf("payment: %w", err)
	}
	at := time.UnixMicro(now).UTC()
	return Payment{
		ID: id.String(), Hold: r.Hold, Buyer: r.Buyer, Amount: r.Amount, Currency: r.Currency, State: Pending,
		CreatedAt: at, UpdatedAt: at, source: r.Source,
	}, nil
}

func insert(ctx context.Context, tx *sqldb.Tx, pays []Payment) error {
	var list sqldb.Rows
	for _, p := range pays {
		list.Add(p.ID, p.Hold, p.Buyer, p.Amount, p.Currency, p.source, p.CreatedAt.UnixMicro())
	}
	if len(list) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO payments (id, hold, buyer, amount, currency, source, state, next_at, created_at, updated_at)
		SELECT id, hold, buyer, amount, currency, source, 'pending', at, at, at FROM `+
		tx.List("$1", "id text", "hold text", "buyer text", "amount bigint", "currency text", "source text", "at bigint"), list)
	return err
}

// fault says whether the database is the reason.
func fault(err error) bool {
	for _, kind := range []error{sqldb.ErrBusy, sqldb.ErrUnavailable, sqldb.ErrOutcomeUnknown, sqldb.ErrFull} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
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

// post applies operations to the ledger that cannot be refused unless the books are wrong.
func post(ctx context.Context, tx *sqldb.Tx, ops ...ledger.Op) error {
	if len(ops) == 0 {
		return nil
	}
	out, err := ledger.Apply(ctx, tx, ops...)
	for _, o := range out {
		if err == nil {
			err = o.Err
		}
	}
	if err != nil {
		return fmt.Errorf("payment: ledger: %w", err)
	}
	return nil
}

func publish(ctx context.Context, tx *sqldb.Tx, pays ...Payment) error {
	events := make([]sqldb.Event, len(pays))
	for i, p := range pays {
		payload, err := json.Marshal(p)
		if err != nil {
			return err
		}
		events[i] = sqldb.Event{Topic: Topic, Kind: "payment." + string(p.State), Payload: payload}
	}
	return tx.PublishAll(ctx, events...)
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
