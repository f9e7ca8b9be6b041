package payment

import (
	"context"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// Claim names what a payment pays for, to the Goods that have it.
type Claim struct {
	Payment, Hold, Buyer string
	Amount               int64
	Currency             string
}

// Goods is what can be paid for: something that is held for a buyer for some time. It is an
// interface because a payment must not import what is sold.
//
// Methods that get a tx work inside it and nowhere else. Each may be called again after a crash.
type Goods interface {
	// Attach binds a payment to a live hold, in the transaction that accepts it. Errors:
	// ErrHoldGone, ErrHoldPaid, ErrAmount, *InvalidError.
	Attach(ctx context.Context, tx *sqldb.Tx, c Claim) error
	// Live says whether the hold can still be confirmed: nil or ErrHoldGone.
	Live(ctx context.Context, c Claim) error
	// BeforeExtend prepares what stands outside SQL for a longer hold.
	BeforeExtend(ctx context.Context, c Claim) error
	// Extend gives the hold more time, once, in the transaction that notes the authorisation.
	// Errors: ErrHoldGone.
	Extend(ctx context.Context, tx *sqldb.Tx, c Claim) error
	// BeforeConfirm prepares what stands outside SQL for an order.
	BeforeConfirm(ctx context.Context, c Claim) error
	// Confirm turns the hold into an order and returns its id. Errors: ErrHoldGone.
	Confirm(ctx context.Context, tx *sqldb.Tx, c Claim) (order string, err error)
	// Abandon gives up the payment's claim, in the transaction that ends it without a sale: a
	// hold that lives is free for another payment, an order is cancelled.
	Abandon(ctx context.Context, tx *sqldb.Tx, c Claim) error
	// After is called when Abandon has been committed, to let what stands outside SQL
	// follow soon. It may fail to.
	After(ctx context.Context, c Claim)
}
