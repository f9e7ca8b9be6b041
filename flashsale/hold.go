package flashsale

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/internal/idem"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// MaxKey bounds a key, in bytes.
const MaxKey = 1024

// HoldRequest asks for one unit for a buyer. Key is the scope of its idempotency: who asks, for
// what, under which key.
type HoldRequest struct {
	Key   string `json:"-"`
	Sale  string `json:"sale"`
	Buyer string `json:"buyer"`
}

// HoldState is what became of a hold.
type HoldState string

// The states. All but Held are final, except that a confirmed hold can be cancelled.
const (
	StateHeld      HoldState = "held"
	StateConfirmed HoldState = "confirmed"
	StateReleased  HoldState = "released"
	StateExpired   HoldState = "expired"
	StateCancelled HoldState = "cancelled"
)

// Hold is a unit that a buyer has until ExpiresAt.
type Hold struct {
	ID        string    `json:"id"`
	Sale      string    `json:"sale"`
	Buyer     string    `json:"buyer"`
	State     HoldState `json:"state"`
	Price     int64     `json:"price"`
	Currency  string    `json:"currency"`
	ExpiresAt time.Time `json:"expires_at"`
	CreatedAt time.Time `json:"created_at"`
}

// Held is a hold that was given. Answer is its JSON as it was first given; repeats get the same
// bytes.
type Held struct {
	Hold     Hold
	Answer   []byte
	Replayed bool
}

func (r HoldRequest) validate() error {
	switch {
	case r.Key == "" || len(r.Key) > MaxKey:
		return &InvalidError{"key", fmt.Sprintf("must have 1..%d bytes", MaxKey)}
	case !idPattern.MatchString(r.Sale):
		return ErrNotFound
	case !text(r.Buyer, MaxBuyer):
		return &InvalidError{"buyer", fmt.Sprintf("must be 1..%d bytes of printable text", MaxBuyer)}
	}
	return nil
}

// attempt is one request on its way.
type attempt struct {
	HoldRequest
	terms  *terms
	key    idem.Key
	permit string
}

// Hold takes a unit for the buyer. Errors: ErrSoldOut, ErrLimit, ErrNotOpen, ErrNotFound,
// ErrKeyReused, ErrInFlight, *InvalidError, and those of store and sqldb. After any error of
// store or sqldb repeat with the same key.
func (s *Sales) Hold(ctx context.Context, r HoldRequest) (Held, error) {
	if err := r.validate(); err != nil {
		return Held{}, err
	}
	if s.work.Err() != nil {
		return Held{}, ErrClosed
	}
	t, err := s.terms(ctx, r.Sale)
	if err != nil {
		return Held{}, err
	}
	canonical, err := json.Marshal(r)
	if err != nil {
		return Held{}, fmt.Errorf("flashsale: %w", err)
	}
	a := attempt{HoldRequest: r, terms: t, key: idem.Key{Scope: r.Key, Request: canonical}, permit: permitOf(r.Key)}
	t.attempts.Add(1)
	held, err := s.hold(ctx, t, a)
	s.count(t, held, err)
	return held, err
}

func (s *Sales) count(t *terms, held Held, err error) {
	switch {
	case err == nil && held.Replayed:
		s.stats.replayed.Add(1)
	case err == nil:
		s.stats.held.Add(1)
	case errors.Is(err, ErrSoldOut):
		s.stats.soldOut.Add(1)
		t.refused.Add(1)
	case errors.Is(err, ErrLimit):
		s.stats.limited.Add(1)
		t.refused.Add(1)
	}
}

func (s *Sales) hold(ctx context.Context, t *terms, a attempt) (Held, error) {
	if held, done, err := s.fromMark(ctx, t, a); done {
		return held, err
	}
	// Before there is a permit: it would be taken for nothing.
	if !s.gate.Enter() {
		return Held{}, sqldb.ErrCrowded
	}
	held, err := s.attempt(ctx, t, a)
	s.gate.Leave(err == nil || refusal(err)) // what fails, fails at once: that is no throughput
	return held, err
}

// attempt asks the store, and with its permit SQL.
func (s *Sales) attempt(ctx context.Context, t *terms, a attempt) (Held, error) {
	// The permit lives longer than this: whoever is late has no time left for SQL.
	ctx, cancel := context.WithTimeout(ctx, s.opts.SQLTimeout)
	defer cancel()
	deadline, held, err := s.admit(ctx, t, a)
	if err != nil || held.Replayed {
		return held, err
	}
	if err := s.at("admitted"); err != nil {
		return Held{}, err
	}
	held, err = s.reserve(ctx, a)
	if err == nil {
		err = s.at("reserved")
	}
	switch {
	case err == nil && !held.Replayed:
		// SQL has it. If the permit cannot be prolonged now, it will be as soon as the store is
		// back; and if this process dies, the reconciler does it in time.
		life := time.Duration(t.HoldSeconds)*time.Second + permitMargin
		until := time.Now().Add(life)
		if err := s.extendPermit(context.WithoutCancel(ctx), t.ID, a.permit, life); err != nil {
			s.opts.Logger.Warn("flashsale: permit not prolonged yet", "hold", held.Hold.ID, "error", err)
			s.late.add(latePermit{t.ID, a.permit, until})
		}
	case refusal(err):
		s.giveBackRefused(context.WithoutCancel(ctx), t.ID, a.permit, deadline)
	}
	return held, err
}

// refusal says whether err is SQL's no. After anything else the row may be there, or may come;
// the permit lapses by itself.
func refusal(err error) bool {
	return errors.Is(err, ErrSoldOut) || errors.Is(err, ErrLimit) || errors.Is(err, ErrNotOpen)
}

// sqlRefusal gives the net's refusals and those of the key their names.
func sqlRefusal(err error) error {
	name, constraint := sqldb.Constraint(err)
	switch {
	case constraint && name == "sales_not_oversold":
		return ErrSoldOut
	case constraint && name == "sale_buyers_limit":
		return ErrLimit
	case errors.Is(err, idem.ErrReused):
		return fmt.Errorf("%w: %w", ErrKeyReused, err)
	}
	return err
}

// holdRow is a hold as SQL has it.
type holdRow struct {
	id, sale, buyer, permit, payment string
	state                            HoldState
	live                             bool // held, and its time is not over
}

func findHold(ctx context.Context, tx *sqldb.Tx, id, lock string) (holdRow, error) {
	h := holdRow{id: id}
	err := tx.Row(ctx, `
		SELECT sale, buyer, permit, payment, state, state = 'held' AND expires_at > holdfast_now()
		FROM holds WHERE id = $1`+lock, id).Scan(&h.sale, &h.buyer, &h.permit, &h.payment, &h.state, &h.live)
	if errors.Is(err, sql.ErrNoRows) {
		return h, ErrNotFound
	}
	return h, err
}

// Release gives a held unit back. Releasing what has ended does nothing. Errors: ErrNotFound,
// ErrPaid, and those of sqldb.
func (s *Sales) Release(ctx context.Context, sale, hold string) error {
	var h holdRow
	released := false
	err := s.db.Write(sqldb.Ending(ctx), func(ctx context.Context, tx *sqldb.Tx) (err error) {
		if h, err = findHold(ctx, tx, hold, tx.ForUpdate()); err != nil {
			return err
		}
		if h.sale != sale {
			return ErrNotFound
		}
		if err := lockSale(ctx, tx, sale); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `UPDATE holds SET state = 'released', changed_at = holdfast_now()
			WHERE id = $1 AND state = 'held' AND payment = ''`, hold)
		if err != nil {
			return err
		}
		if released = n == 1; released {
			return freeUnits(ctx, tx, sale, "released", []string{h.buyer})
		}
		if h.state == StateHeld || h.state == StateConfirmed {
			return ErrPaid
		}
		return nil
	})
	if err != nil || !released {
		return err
	}
	s.stats.released.Add(1)
	if err := s.at("released"); err != nil {
		return err
	}
	s.giveBackEnded(context.WithoutCancel(ctx), sale, h.permit)
	return nil
}

// lockSale keeps a sale's row until the transaction ends: whatever changes its numbers comes one
// after the other. Holds are locked before their sale.
func lockSale(ctx context.Context, tx *sqldb.Tx, sale string) error {
	var one int
	err := tx.Row(ctx, `SELECT 1 FROM sales WHERE id = $1`+tx.ForUpdate(), sale).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

// freeUnits puts units of a locked sale back on sale, one for each buyer listed: held ones, or
// sold ones whose orders are cancelled.
func freeUnits(ctx context.Context, tx *sqldb.Tx, sale, what string, buyers []string) error {
	column := "held"
	if what == "cancelled" {
		column = "sold"
	}
	_, err := tx.Exec(ctx, `UPDATE sales SET `+column+` = `+column+` - $2, version = version + 1 WHERE id = $1`, sale, len(buyers))
	if err != nil {
		return err
	}
	for units, list := range byUnits(buyers) {
		args, marks := []any{sale, units}, make([]string, len(list))
		for i, buyer := range list {
			args = append(args, buyer)
			marks[i] = "$" + strconv.Itoa(i+3)
		}
		_, err := tx.Exec(ctx, `UPDATE sale_buyers SET taken = taken - $2
			WHERE sale = $1 AND buyer IN (`+strings.Join(marks, ", ")+`)`, args...)
		if err != nil {
			return err
		}
	}
	return publishStock(ctx, tx, sale, what, int64(len(buyers)))
}

// byUnits groups buyers by how often each is listed, so that few statements are made while the
// sale is locked and everybody waits.
func byUnits(buyers []string) map[int64][]string {
	times := map[string]int64{}
	for _, buyer := range buyers {
		times[buyer]++
	}
	groups := map[int64][]string{}
	for buyer, n := range times {
		groups[n] = append(groups[n], buyer)
	}
	return groups
}
