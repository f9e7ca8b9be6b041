package payment

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/internal/idem"
	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(runner{m}) }

// runner stops the shared database server before leaks are looked for.
type runner struct{ m *testing.M }

func (r runner) Run() int { return sqldbtest.Run(r.m.Run) }

// rig is a database with something to pay for, and a provider.
type rig struct {
	*testing.T
	db       *sqldb.DB
	provider *fakeProvider
	goods    *seats
	n        int
}

func each(t *testing.T, fn func(r *rig)) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		t.Parallel() // most of it is waiting
		if err := db.Migrate(t.Context(), sqldb.Core(), idem.Migrations(), ledger.Migrations(), Migrations()); err != nil {
			t.Fatal(err)
		}
		r := &rig{T: t, db: db, provider: newProvider(), goods: &seats{db: db}}
		r.write(func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, `CREATE TABLE seats (id TEXT PRIMARY KEY, buyer TEXT NOT NULL, price BIGINT NOT NULL,
				state TEXT NOT NULL, payment TEXT NOT NULL DEFAULT '')`)
			return err
		})
		fn(r)
		r.booksAgree()
	})
}

func (r *rig) write(fn func(context.Context, *sqldb.Tx) error) {
	r.Helper()
	if err := r.db.Write(r.Context(), fn); err != nil {
		r.Fatal(err)
	}
}

// payments makes a process's Payments; its pauses are short.
func (r *rig) payments(started bool) *Payments {
	r.Helper()
	p, err := New(r.db, r.provider, r.goods, Options{
		ProviderTimeout: 200 * time.Millisecond, Lease: 400 * time.Millisecond, PollEvery: 20 * time.Millisecond,
		MinBackoff: 5 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = p.Close(context.Background()) })
	if started {
		p.Start()
	}
	return p
}

// seat makes something that is held.
func (r *rig) seat() string {
	r.Helper()
	r.n++
	id := fmt.Sprintf("seat-%d", r.n)
	r.write(func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO seats (id, buyer, price, state) VALUES ($1, 'ada', 500, 'held')`, id)
		return err
	})
	return id
}

func (r *rig) request(seat string) Request {
	return Request{Key: "k:" + seat, Hold: seat, Buyer: "ada", Amount: 500, Currency: "EUR", Source: "tok"}
}

func (r *rig) accept(p *Payments, seat string) Payment {
	r.Helper()
	a, err := p.Accept(r.Context(), r.request(seat))
	if err != nil {
		r.Fatal(err)
	}
	return a.Payment
}

func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("not within 20 s: %s", what)
		}
	}
}

// final waits for the end of a payment.
func (r *rig) final(p *Payments, id string) (pay Payment) {
	r.Helper()
	r.until("the payment ends", func() bool {
		var err error
		if pay, err = p.Get(r.Context(), id); err != nil {
			r.Fatal(err)
		}
		return pay.State.Final()
	})
	return pay
}

// booksAgree compares all that is over: payments with seats, with the provider's record, and
// the ledger with itself and with what was captured.
func (r *rig) booksAgree() {
	r.Helper()
	var captured, open int64
	err := r.db.Read(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		rows, err := tx.Query(ctx, `SELECT p.id, p.state, p.amount, s.state, s.payment FROM payments p JOIN seats s ON s.id = p.hold`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id, state, seat, of string
			var amount int64
			if err := rows.Scan(&id, &state, &amount, &seat, &of); err != nil {
				return err
			}
			switch State(state) {
			case Captured:
				captured += amount
			case Pending, Authorised:
				open += amount
			}
			r.agrees(id, State(state), seat == "sold" && of == id)
		}
		return rows.Err()
	})
	if err != nil {
		r.Fatal(err)
	}
	report, err := ledger.Check(r.Context(), r.db, 0)
	if err != nil || !report.OK() {
		r.Errorf("ledger: %+v, %v", report, err)
	}
	merchant, pending := r.balances()
	if merchant != captured {
		r.Errorf("%d was captured, and the merchant has %d", captured, merchant)
	}
	if pending != open {
		r.Errorf("%d are pending in the ledger, %d in payments", pending, open)
	}
}

func (r *rig) agrees(id string, state State, sold bool) {
	r.Helper()
	at := r.provider.record(id)
	want := map[State][]Status{
		Captured: {StatusCaptured}, Voided: {StatusVoided}, Refunded: {StatusRefunded},
		Failed: {StatusRefused, StatusVoided, StatusRefunded},
	}[state]
	for _, w := range want {
		if at.status == w {
			want = nil
		}
	}
	if state.Final() && want != nil || sold != (state == Captured || state == Capturing) {
		r.Errorf("payment %s is %s; sold %t; the provider has %s", id, state, sold, at.status)
	}
	if at.authorised > 1 || at.captured > 1 {
		r.Errorf("payment %s: %d authorisations, %d captures", id, at.authorised, at.captured)
	}
}

// balances are what the merchant has, and what is pending.
func (r *rig) balances() (merchant, pending int64) {
	r.Helper()
	err := r.db.Read(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		m, err := ledger.Balance(ctx, tx, "merchant:EUR")
		if errors.Is(err, ledger.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		c, err := ledger.Balance(ctx, tx, "clearing:EUR")
		merchant, pending = m.PostedCredits-m.PostedDebits, c.PendingCredits
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	return merchant, pending
}

// seats is the Goods of the tests.
type seats struct {
	db   *sqldb.DB
	gone sync.Map // point → true: there the hold turns out to be gone
}

func (s *seats) find(ctx context.Context, tx *sqldb.Tx, id string) (buyer, state, payment string, price int64, err error) {
	err = tx.Row(ctx, `SELECT buyer, state, payment, price FROM seats WHERE id = $1`+tx.ForUpdate(), id).Scan(&buyer, &state, &payment, &price)
	return
}

// one makes a method for many of one for one. Refusals are what payment knows as such.
func one(claims []Claim, do func(Claim) error) ([]error, error) {
	refused := make([]error, len(claims))
	for i, c := range claims {
		err := do(c)
		var invalid *InvalidError
		switch {
		case errors.Is(err, ErrHoldGone), errors.Is(err, ErrHoldPaid), errors.Is(err, ErrAmount), errors.As(err, &invalid):
			refused[i] = err
		case err != nil:
			return nil, err
		}
	}
	return refused, nil
}

func (s *seats) Attach(ctx context.Context, tx *sqldb.Tx, claims []Claim) ([]error, error) {
	return one(claims, func(c Claim) error { return s.attach(ctx, tx, c) })
}

func (s *seats) attach(ctx context.Context, tx *sqldb.Tx, c Claim) error {
	buyer, state, of, price, err := s.find(ctx, tx, c.Hold)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return &InvalidError{"hold", "does not exist"}
	case err != nil:
		return err
	case buyer != c.Buyer:
		return &InvalidError{"buyer", "is somebody else"}
	case price != c.Amount:
		return ErrAmount
	case of != "":
		return ErrHoldPaid
	case state != "held":
		return ErrHoldGone
	}
	_, err = tx.Exec(ctx, `UPDATE seats SET payment = $2 WHERE id = $1`, c.Hold, c.Payment)
	return err
}

// lapse makes the hold end at a point, as time would.
func (s *seats) lapse(ctx context.Context, point string, c Claim) error {
	if _, on := s.gone.LoadAndDelete(point); !on {
		return nil
	}
	err := s.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE seats SET state = 'expired' WHERE id = $1 AND state = 'held'`, c.Hold)
		return err
	})
	if err != nil { // time goes on
		s.gone.Store(point, true)
	}
	return err
}

func (s *seats) Live(ctx context.Context, claims []Claim) (gone []error, err error) {
	for _, c := range claims {
		if err := s.lapse(ctx, "live", c); err != nil {
			return nil, err
		}
	}
	err = s.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) (err error) {
		gone, err = one(claims, func(c Claim) error { return s.held(ctx, tx, c) })
		return err
	})
	for i, e := range gone {
		if e == nil {
			claims[i].Known = true
		}
	}
	return gone, err
}

func (s *seats) held(ctx context.Context, tx *sqldb.Tx, c Claim) error {
	var state string
	if err := tx.Row(ctx, `SELECT state FROM seats WHERE id = $1 AND payment = $2`, c.Hold, c.Payment).Scan(&state); err != nil {
		return err
	}
	if state != "held" {
		return ErrHoldGone
	}
	return nil
}

func (s *seats) BeforeConfirm(ctx context.Context, c Claim) error { return s.lapse(ctx, "confirm", c) }

func (s *seats) Confirm(ctx context.Context, tx *sqldb.Tx, claims []Claim) (orders []string, refused []error, err error) {
	refused, err = one(claims, func(c Claim) error {
		orders = append(orders, "order-"+c.Payment)
		if err := s.held(ctx, tx, c); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE seats SET state = 'sold' WHERE id = $1`, c.Hold)
		return err
	})
	return orders, refused, err
}

func (s *seats) Abandon(ctx context.Context, tx *sqldb.Tx, c Claim) error {
	_, err := tx.Exec(ctx, `UPDATE seats SET payment = '', state = CASE WHEN state = 'sold' THEN 'free' ELSE state END
		WHERE id = $1 AND payment = $2`, c.Hold, c.Payment)
	return err
}

func (s *seats) After(context.Context, Claim) {}

// record is what the provider knows of a reference.
type record struct {
	status               Status
	authorised, captured int
	noCapture            bool
}

// fakeProvider keeps the contract of Provider. Each call takes a fault from the script, if
// there is one left.
type fakeProvider struct {
	mu     sync.Mutex
	refs   map[string]*record
	script []string // lost: not done, error; cut: done, error; refuse, no capture, at once: what it says
}

func newProvider() *fakeProvider { return &fakeProvider{refs: map[string]*record{}} }

func (f *fakeProvider) record(ref string) record {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.refs[ref]; e != nil {
		return *e
	}
	return record{status: StatusUnknown}
}

var errNoAnswer = errors.New("no answer")

func (f *fakeProvider) call(ref string, act func(e *record, fault string)) (Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fault := ""
	if len(f.script) > 0 {
		fault, f.script = f.script[0], f.script[1:]
	}
	if fault == "lost" {
		return Result{}, errNoAnswer
	}
	e := f.refs[ref]
	if e == nil {
		e = &record{status: StatusUnknown}
	}
	act(e, fault)
	if e.status != StatusUnknown {
		f.refs[ref] = e
	}
	if fault == "cut" {
		return Result{}, errNoAnswer
	}
	return Result{Status: e.status}, nil
}

func (f *fakeProvider) Authorise(_ context.Context, ref string, _ int64, _, _ string) (Result, error) {
	return f.call(ref, func(e *record, fault string) {
		if e.status != StatusUnknown {
			return
		}
		switch fault {
		case "refuse":
			e.status = StatusRefused
			return
		case "no capture":
			e.noCapture = true
		case "at once":
			e.status, e.authorised, e.captured = StatusCaptured, 1, 1
			return
		}
		e.status = StatusAuthorised
		e.authorised++
	})
}

func (f *fakeProvider) Capture(_ context.Context, ref string) (Result, error) {
	refused := false
	res, err := f.call(ref, func(e *record, fault string) {
		if fault == "refunded" { // somebody did that by hand, at the provider's desk
			e.status = StatusRefunded
		}
		if e.status != StatusAuthorised {
			return
		}
		if refused = e.noCapture; !refused {
			e.status = StatusCaptured
			e.captured++
		}
	})
	if refused && err == nil {
		return Result{Status: StatusRefused, Reason: strings.Repeat("né\x00\xff", 100)}, nil // words are the provider's
	}
	return res, err
}

func (f *fakeProvider) Void(_ context.Context, ref string) (Result, error) {
	return f.call(ref, func(e *record, fault string) {
		if fault == "refunded" {
			e.status = StatusRefunded
		}
		if e.status == StatusAuthorised || e.status == StatusUnknown {
			e.status = StatusVoided
		}
	})
}

func (f *fakeProvider) Refund(_ context.Context, ref string) (Result, error) {
	return f.call(ref, func(e *record, _ string) {
		if e.status == StatusCaptured {
			e.status = StatusRefunded
		}
	})
}

func (f *fakeProvider) Lookup(_ context.Context, ref string) (Result, error) {
	return f.call(ref, func(*record, string) {})
}
