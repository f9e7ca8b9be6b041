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

	// Known is what Live wants the later calls of the same worker to know. They do without.
	Known any
}

// Goods is what can be paid for: something that is held for a buyer for some time. It is an
// interface because a payment must not import what is sold.
//
// Methods that get a tx work inside it and nowhere else. Each may be called again after a
// crash. Those that take many claims return an error for each that is refused, of which they
// have written nothing, or one error for all, which ends the transaction.
type Goods interface {
	// Attach binds payments to live holds, in the transaction that accepts them; of two for
	// one hold the first. Refusals: ErrHoldGone, ErrHoldPaid, ErrAmount, *InvalidError.
	Attach(ctx context.Context, tx *sqldb.Tx, claims []Claim) (refused []error, err error)
	// Live says which holds can still be confirmed, nil or ErrHoldGone for each, and may set the
	// Known of those that can.
	Live(ctx context.Context, claims []Claim) (gone []error, err error)
	// BeforeConfirm prepares what stands outside SQL for an order.
	BeforeConfirm(ctx context.Context, c Claim) error
	// Confirm turns holds into orders and returns their ids. It locks holds in one order whatever
	// the order of claims: two servers must not wait for each other. Refusals: ErrHoldGone.
	Confirm(ctx context.Context, tx *sqldb.Tx, claims []Claim) (orders []string, refused []error, err error)
	// Abandon gives up the payment's claim, in the transaction that ends it without a sale: a
	// hold that lives is free for another payment, an order is cancelled.
	Abandon(ctx context.Context, tx *sqldb.Tx, c Claim) error
	// After is called when Abandon has been committed, to let what stands outside SQL
	// follow soon. It may fail to.
	After(ctx context.Context, c Claim)
}
