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
func (s *Sales) Attach(ctx context.Context, tx *sqldb.Tx, claims []payment.Claim) ([]error, error) {
	holds, err := findHolds(ctx, tx, claims, tx.ForUpdate())
	if err != nil {
		return nil, err
	}
	prices, err := findPrices(ctx, tx, holds)
	if err != nil {
		return nil, err
	}
	refused := make([]error, len(claims))
	var list sqldb.Rows
	for i, c := range claims {
		h := holds[c.Hold]
		if refused[i] = attach(h, c, prices); refused[i] == nil {
			h.payment = c.Payment
			list.Add(c.Hold, c.Payment)
		}
	}
	return refused, bind(ctx, tx, list)
}

// bind notes payments on holds that this transaction has locked and seen to be live. It does not
// look at the clock again: a hold whose time ends in between was live when that was decided.
func bind(ctx context.Context, tx *sqldb.Tx, list sqldb.Rows) error {
	if len(list) == 0 {
		return nil
	}
	n, err := tx.Exec(ctx, `
		UPDATE holds SET payment = list.payment, changed_at = holdfast_now()
		FROM `+tx.List("$1", "hold text", "payment text")+`
		WHERE holds.id = list.hold AND holds.payment = '' AND holds.state || '' = 'held'`, list)
	if err == nil && n != int64(len(list)) {
		err = errors.New("flashsale: a hold changed while it was locked")
	}
	return err
}

type price struct {
	amount   int64
	currency string
}

func attach(h *holdRow, c payment.Claim, prices map[string]price) error {
	switch {
	case h == nil:
		return &payment.InvalidError{Field: "hold", Reason: "does not exist"}
	case h.buyer != c.Buyer:
		return &payment.InvalidError{Field: "buyer", Reason: "is not whose hold it is"}
	case prices[h.sale] != price{c.Amount, c.Currency}:
		return payment.ErrAmount
	case h.payment != "" && (h.live || h.state == StateConfirmed):
		return payment.ErrHoldPaid
	case !h.live:
		return payment.ErrHoldGone
	}
	return nil
}

// findHolds returns the holds of claims, by their ids, in whose order they are locked.
func findHolds(ctx context.Context, tx *sqldb.Tx, claims []payment.Claim, lock string) (map[string]*holdRow, error) {
	var list sqldb.Rows
	for _, c := range claims {
		list.Add(c.Hold)
	}
	found := map[string]*holdRow{}
	return found, each(ctx, tx, func(scan func(...any) error) error {
		h := &holdRow{}
		err := scan(&h.id, &h.sale, &h.buyer, &h.permit, &h.payment, &h.state, &h.live)
		found[h.id] = h
		return err
	}, `SELECT id, sale, buyer, permit, payment, state, state = 'held' AND expires_at > holdfast_now()
		FROM holds WHERE id IN (SELECT id FROM `+tx.List("$1", "id text")+`) ORDER BY id`+lock, list)
}

func findPrices(ctx context.Context, tx *sqldb.Tx, holds map[string]*holdRow) (map[string]price, error) {
	var list sqldb.Rows
	for _, h := range holds {
		list.Add(h.sale)
	}
	found := map[string]price{}
	return found, each(ctx, tx, func(scan func(...any) error) error {
		var id string
		var p price
		err := scan(&id, &p.amount, &p.currency)
		found[id] = p
		return err
	}, `SELECT id, price, currency FROM sales WHERE id IN (SELECT id FROM `+tx.List("$1", "id text")+`)`, list)
}

// knownHold is what a worker knows of the hold that it settles; none of it changes.
type knownHold struct{ sale, permit string }

// Live implements payment.Goods.
func (s *Sales) Live(ctx context.Context, claims []payment.Claim) (gone []error, err error) {
	var holds map[string]*holdRow
	err = s.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) (err error) {
		holds, err = findHolds(ctx, tx, claims, "")
		return err
	})
	if err != nil {
		return nil, err
	}
	gone = make([]error, len(claims))
	for i, c := range claims {
		if h := holds[c.Hold]; h == nil || !h.live || h.payment != c.Payment {
			gone[i] = payment.ErrHoldGone
		} else {
			claims[i].Known = knownHold{h.sale, h.permit}
		}
	}
	return gone, nil
}

// BeforeConfirm implements payment.Goods: the permit loses its deadline, before the hold does. If
// no order comes of it, the reconciler gives it one again. Whether the hold is still live, Confirm
// says, where it counts.
func (s *Sales) BeforeConfirm(ctx context.Context, c payment.Claim) error {
	h, known := c.Known.(knownHold)
	if !known {
		one := []payment.Claim{c}
		gone, err := s.Live(ctx, one)
		if err != nil || gone[0] != nil {
			return err
		}
		h = one[0].Known.(knownHold)
	}
	return s.extendPermit(ctx, h.sale, h.permit, -1)
}

// live says that a unit is held and its time not over, in words that no index has: a hold is
// found by its id, and not among all that are held.
const live = `state || '' = 'held' AND expires_at + 0 > holdfast_now()`

// change updates the live holds of claims, and says which were gone.
func change(ctx context.Context, tx *sqldb.Tx, claims []payment.Claim, set string) (refused []error, err error) {
	var list sqldb.Rows
	for _, c := range claims {
		list.Add(c.Hold, c.Payment)
	}
	changed := map[string]bool{}
	err = each(ctx, tx, func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		changed[id] = true
		return err
	}, `UPDATE holds SET `+set+` FROM `+tx.List("$1", "hold text", "by text")+`
		WHERE holds.id = list.hold AND payment = list.by AND `+live+`
		RETURNING id`, list)
	refused = make([]error, len(claims))
	for i, c := range claims {
		if !changed[c.Hold] {
			refused[i] = payment.ErrHoldGone
		}
	}
	return refused, err
}

// Confirm implements payment.Goods.
func (s *Sales) Confirm(ctx context.Context, tx *sqldb.Tx, claims []payment.Claim) (orders []string, refused []error, err error) {
	holds, err := findHolds(ctx, tx, claims, tx.ForUpdate())
	if err != nil {
		return nil, nil, err
	}
	var ids []string
	for _, h := range holds {
		ids = append(ids, h.sale)
	}
	sales, err := lockSales(ctx, tx, ids)
	if err != nil {
		return nil, nil, err
	}
	if refused, err = change(ctx, tx, claims, `state = 'confirmed', changed_at = holdfast_now()`); err != nil {
		return nil, nil, err
	}
	orders = make([]string, len(claims))
	var list sqldb.Rows
	for i, c := range claims {
		if refused[i] != nil {
			continue
		}
		id, err := uuid.NewV7()
		if err != nil {
			return nil, nil, err
		}
		orders[i] = id.String()
		h := holds[c.Hold]
		sales[h.sale].confirmed++
		list.Add(orders[i], h.sale, c.Hold, h.buyer, c.Payment, c.Amount, c.Currency)
	}
	if len(list) == 0 {
		return orders, refused, nil
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO orders (id, sale, hold, buyer, payment, amount, currency, state, created_at)
		SELECT id, sale, hold, buyer, payment, amount, currency, 'confirmed', holdfast_now() FROM `+
		tx.List("$1", "id text", "sale text", "hold text", "buyer text", "payment text", "amount bigint", "currency text"), list)
	if err != nil {
		return nil, nil, err
	}
	tx.AfterCommit(func() { s.stats.confirmed.Add(int64(len(list))) })
	return orders, refused, writeSales(ctx, tx, sales)
}

// Abandon implements payment.Goods: a live hold can be paid for again, an order is cancelled
// and its unit goes back on sale.
func (s *Sales) Abandon(ctx context.Context, tx *sqldb.Tx, c payment.Claim) error {
	h, err := findHold(ctx, tx, c.Hold, tx.ForUpdate())
	if err != nil {
		return err
	}
	if h.payment != c.Payment {
		return nil
	}
	switch h.state { // which stays, because the row is locked
	case StateHeld:
		_, err := tx.Exec(ctx, `UPDATE holds SET payment = '', changed_at = holdfast_now() WHERE id = $1`, c.Hold)
		return err
	case StateConfirmed:
		return s.cancel(ctx, tx, h)
	}
	return nil
}

// cancel takes an order back. It is the only way in which a payment that ends changes the numbers of a
// sale, and so the only one that keeps everybody else waiting for its row.
func (s *Sales) cancel(ctx context.Context, tx *sqldb.Tx, h holdRow) error {
	if err := lockSale(ctx, tx, h.sale); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE holds SET state = 'cancelled', changed_at = holdfast_now() WHERE id = $1`, h.id)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE orders SET state = 'cancelled' WHERE payment = $1`, h.payment); err != nil {
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
