package flashsale

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// The methods of this file make Sales a payment.Goods: what is held is what is paid for.
var _ payment.Goods = (*Sales)(nil)

// Order is a unit that was sold.
type Order struct {
	ID        string     `json:"id"`
	Sale      string     `json:"sale"`
	Hold      string     `json:"hold"`
	Buyer     string     `json:"buyer"`
	Payment   string     `json:"payment"`
	Amount    int64      `json:"amount"`
	Currency  string     `json:"currency"`
	State     OrderState `json:"state"`
	CreatedAt time.Time  `json:"created_at"`
}

// OrderState is what became of an order.
type OrderState string

// The states. An order is cancelled when its payment is refused at the capture.
const (
	OrderConfirmed OrderState = "confirmed"
	OrderCancelled OrderState = "cancelled"
)

// GetOrder returns an order. Errors: ErrNotFound, and those of sqldb.
func (s *Sales) GetOrder(ctx context.Context, id string) (o Order, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		var created int64
		err := tx.Row(ctx, `
			SELECT id, sale, hold, buyer, payment, amount, currency, state, created_at
			FROM orders WHERE id = $1`, id).
			Scan(&o.ID, &o.Sale, &o.Hold, &o.Buyer, &o.Payment, &o.Amount, &o.Currency, &o.State, &created)
		o.CreatedAt = time.UnixMicro(created).UTC()
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		return err
	})
	return o, err
}

// Attach implements payment.Goods.
func (s *Sales) Attach(ctx context.Context, tx *sqldb.Tx, c payment.Claim) error {
	h, err := findHold(ctx, tx, c.Hold)
	switch {
	case errors.Is(err, ErrNotFound):
		return &payment.InvalidError{Field: "hold", Reason: "does not exist"}
	case err != nil:
		return err
	}
	sale, err := findSale(ctx, tx, h.sale)
	switch {
	case err != nil:
		return err
	case h.buyer != c.Buyer:
		return &payment.InvalidError{Field: "buyer", Reason: "is not whose hold it is"}
	case sale.Price != c.Amount || sale.Currency != c.Currency:
		return payment.ErrAmount
	}
	n, err := tx.Exec(ctx, `
		UPDATE holds SET payment = $2, changed_at = holdfast_now()
		WHERE id = $1 AND state = 'held' AND payment = '' AND expires_at > holdfast_now()`, c.Hold, c.Payment)
	if err != nil || n == 1 {
		return err
	}
	if h, err = findHold(ctx, tx, c.Hold); err != nil {
		return err
	}
	if h.payment != "" && (h.live || h.state == StateConfirmed) {
		return payment.ErrHoldPaid
	}
	return payment.ErrHoldGone
}

// claimed returns the hold if it is live and the payment's.
func (s *Sales) claimed(ctx context.Context, c payment.Claim) (h holdRow, holdTime time.Duration, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		if h, err = findHold(ctx, tx, c.Hold); err != nil {
			return err
		}
		var us int64
		err := tx.Row(ctx, `SELECT hold_us FROM sales WHERE id = $1`, h.sale).Scan(&us)
		holdTime = time.Duration(us) * time.Microsecond
		return err
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return h, 0, payment.ErrHoldGone
	case err == nil && (!h.live || h.payment != c.Payment):
		return h, 0, payment.ErrHoldGone
	}
	return h, holdTime, err
}

// Live implements payment.Goods.
func (s *Sales) Live(ctx context.Context, c payment.Claim) error {
	_, _, err := s.claimed(ctx, c)
	return err
}

// BeforeExtend implements payment.Goods: the permit is extended before the hold, so that it
// never ends first.
func (s *Sales) BeforeExtend(ctx context.Context, c payment.Claim) error {
	h, holdTime, err := s.claimed(ctx, c)
	if errors.Is(err, payment.ErrHoldGone) {
		return nil // Extend says so, where it counts
	}
	if err != nil {
		return err
	}
	return s.extendPermit(ctx, h.sale, h.permit, holdTime+s.opts.SQLTimeout+permitMargin)
}

// Extend implements payment.Goods. A payment calls it once, in the commit that notes the
// authorisation.
func (s *Sales) Extend(ctx context.Context, tx *sqldb.Tx, c payment.Claim) error {
	longer := `holdfast_now() + (SELECT hold_us FROM sales WHERE sales.id = holds.sale)`
	n, err := tx.Exec(ctx, `
		UPDATE holds SET extended = TRUE, changed_at = holdfast_now(), expires_at = CASE
			WHEN extended OR expires_at > `+longer+` THEN expires_at ELSE `+longer+` END
		WHERE id = $1 AND payment = $2 AND state = 'held' AND expires_at > holdfast_now()`, c.Hold, c.Payment)
	if err == nil && n == 0 {
		return payment.ErrHoldGone
	}
	return err
}

// BeforeConfirm implements payment.Goods: the permit loses its deadline. If no order comes of
// it, the reconciler gives it one again.
func (s *Sales) BeforeConfirm(ctx context.Context, c payment.Claim) error {
	h, _, err := s.claimed(ctx, c)
	if errors.Is(err, payment.ErrHoldGone) {
		return nil // Confirm says so, where it counts
	}
	if err != nil {
		return err
	}
	return s.extendPermit(ctx, h.sale, h.permit, -1)
}

// Confirm implements payment.Goods.
func (s *Sales) Confirm(ctx context.Context, tx *sqldb.Tx, c payment.Claim) (string, error) {
	h, err := findHold(ctx, tx, c.Hold)
	if err != nil {
		return "", err
	}
	if err := lockSale(ctx, tx, h.sale); err != nil {
		return "", err
	}
	n, err := tx.Exec(ctx, `
		UPDATE holds SET state = 'confirmed', changed_at = holdfast_now()
		WHERE id = $1 AND payment = $2 AND state = 'held' AND expires_at > holdfast_now()`, c.Hold, c.Payment)
	if err != nil {
		return "", err
	}
	if n == 0 {
		return "", payment.ErrHoldGone
	}
	_, err = tx.Exec(ctx, `UPDATE sales SET held = held - 1, sold = sold + 1, version = version + 1 WHERE id = $1`, h.sale)
	if err != nil {
		return "", err
	}
	order, err := uuid.NewV7()
	if err != nil {
		return "", err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO orders (id, sale, hold, buyer, payment, amount, currency, state, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 'confirmed', holdfast_now())`,
		order.String(), h.sale, c.Hold, h.buyer, c.Payment, c.Amount, c.Currency)
	if err != nil {
		return "", err
	}
	if err := publishStock(ctx, tx, h.sale, "confirmed", 1); err != nil {
		return "", err
	}
	tx.AfterCommit(func() { s.stats.confirmed.Add(1) })
	return order.String(), nil
}

// Abandon implements payment.Goods: a live hold can be paid for again, an order is cancelled
// and its unit goes back on sale.
func (s *Sales) Abandon(ctx context.Context, tx *sqldb.Tx, c payment.Claim) error {
	h, err := findHold(ctx, tx, c.Hold)
	if err != nil {
		return err
	}
	if err := lockSale(ctx, tx, h.sale); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		UPDATE holds SET payment = '', changed_at = holdfast_now()
		WHERE id = $1 AND payment = $2 AND state = 'held'`, c.Hold, c.Payment)
	if err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `
		UPDATE holds SET state = 'cancelled', changed_at = holdfast_now()
		WHERE id = $1 AND payment = $2 AND state = 'confirmed'`, c.Hold, c.Payment)
	if err != nil || n == 0 {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE orders SET state = 'cancelled' WHERE payment = $1`, c.Payment); err != nil {
		return err
	}
	if err := freeUnits(ctx, tx, h.sale, "cancelled", []string{h.buyer}); err != nil {
		return err
	}
	tx.AfterCommit(func() { s.stats.cancelled.Add(1) })
	return nil
}

// After implements payment.Goods: the permit follows what SQL says now.
func (s *Sales) After(ctx context.Context, c payment.Claim) {
	r := reconciler{sales: s, usual: true}
	if err := r.hold(ctx, c.Hold); err != nil {
		s.opts.Logger.Info("flashsale: permit follows later", "hold", c.Hold, "error", err)
	}
}
