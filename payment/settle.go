package payment

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// settle takes a payment as far as it goes.
func (p *Payments) settle(ctx context.Context, pay Payment) {
	for !pay.State.Final() {
		err := p.step(ctx, &pay)
		switch {
		case err == nil:
			continue
		case errors.Is(err, errMoved), errors.Is(err, errCrash), ctx.Err() != nil:
			return
		}
		p.later(ctx, pay, err)
		return
	}
	p.count(pay.State)
}

func (p *Payments) count(s State) {
	switch s {
	case Captured:
		p.stats.captured.Add(1)
	case Voided:
		p.stats.voided.Add(1)
	case Refunded:
		p.stats.refunded.Add(1)
	case Failed:
		p.stats.failed.Add(1)
	}
}

// errCrash is what tests make at return: the process would be gone.
var errCrash = errors.New("payment: crashed by a test")

func (p *Payments) step(ctx context.Context, pay *Payment) error {
	if pay.givingUp {
		return p.takeBack(ctx, pay)
	}
	switch pay.State {
	case Pending:
		return p.authorise(ctx, pay)
	case Authorised:
		return p.confirm(ctx, pay)
	case Capturing:
		return p.capture(ctx, pay)
	}
	return fmt.Errorf("payment: no step for state %q", pay.State)
}

// ask calls the provider and, when that gives no answer, asks what became of it.
func (p *Payments) ask(ctx context.Context, pay *Payment, what string, call func(context.Context) (Result, error)) (Result, error) {
	if err := p.at("before " + what); err != nil {
		return Result{}, err
	}
	res, err := p.timed(ctx, call)
	if err != nil && mutant.AskOff {
		return Result{Status: StatusRefused, Reason: "no answer"}, nil
	}
	if err != nil {
		unanswered := err
		res, err = p.timed(ctx, func(ctx context.Context) (Result, error) { return p.provider.Lookup(ctx, pay.ID) })
		if err != nil {
			return Result{}, fmt.Errorf("%s: %w; lookup: %w", what, unanswered, err)
		}
	}
	return res, p.at("after " + what)
}

func (p *Payments) timed(ctx context.Context, call func(context.Context) (Result, error)) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.ProviderTimeout)
	defer cancel()
	return call(ctx)
}

// look asks which holds of payments that begin are live, of all in one go. It only spares each
// worker to ask for itself.
func (p *Payments) look(ctx context.Context, pays []Payment) error {
	var claims []Claim
	var places []int
	for i, pay := range pays {
		if pay.State == Pending && !pay.givingUp {
			claims, places = append(claims, pay.claim()), append(places, i)
		}
	}
	if len(claims) == 0 {
		return nil
	}
	gone, err := p.goods.Live(ctx, claims)
	if err != nil {
		return err
	}
	for n, i := range places {
		if gone[n] == nil {
			pays[i].known = claims[n].Known
		}
	}
	return nil
}

// live is nil when the hold can still be confirmed.
func (p *Payments) live(ctx context.Context, pay *Payment) error {
	if pay.known != nil {
		return nil // it was when its worker began, a moment ago
	}
	claims := []Claim{pay.claim()}
	gone, err := p.goods.Live(ctx, claims)
	if err != nil {
		return err
	}
	pay.known = claims[0].Known
	return gone[0]
}

// authorise: pending → capturing, failed, or over because the hold is gone. That the provider has
// authorised is written down together with the order: until then whoever comes next asks again,
// and is told the same.
func (p *Payments) authorise(ctx context.Context, pay *Payment) error {
	if err := p.live(ctx, pay); err != nil {
		return p.unlessGone(ctx, pay, err)
	}
	res, err := p.ask(ctx, pay, "authorise", func(ctx context.Context) (Result, error) {
		return p.provider.Authorise(ctx, pay.ID, pay.Amount, pay.Currency, pay.source)
	})
	if err != nil {
		return err
	}
	switch res.Status {
	case StatusAuthorised, StatusCaptured: // some providers capture at once
		return p.confirm(ctx, pay)
	case StatusRefused:
		return p.end(ctx, pay, Failed, "refused: "+res.Reason)
	case StatusVoided:
		return p.end(ctx, pay, Voided, "voided")
	case StatusRefunded:
		return p.end(ctx, pay, Refunded, "refunded")
	}
	return fmt.Errorf("authorise: the provider has %q on record", res.Status)
}

// unlessGone takes the payment back when err says that the hold is gone.
func (p *Payments) unlessGone(ctx context.Context, pay *Payment, err error) error {
	if errors.Is(err, ErrHoldGone) {
		return p.takeBack(ctx, pay)
	}
	return err
}

// confirm: pending or authorised → capturing. The order, the ledger and the payment are one commit.
func (p *Payments) confirm(ctx context.Context, pay *Payment) error {
	if err := p.goods.BeforeConfirm(ctx, pay.claim()); err != nil {
		return err
	}
	if err := p.at("before confirm"); err != nil {
		return err
	}
	return p.unlessGone(ctx, pay, p.forward(ctx, pay, Capturing))
}

// refundedThere: somebody gave the money back at the provider's desk, before this program knew
// that it had come.
const refundedThere = "refunded at the provider"

// capture: capturing → captured, or failed when the provider refuses for good.
func (p *Payments) capture(ctx context.Context, pay *Payment) error {
	res, err := p.ask(ctx, pay, "capture", func(ctx context.Context) (Result, error) {
		return p.provider.Capture(ctx, pay.ID)
	})
	if err != nil {
		return err
	}
	switch res.Status {
	case StatusCaptured:
		return p.forward(ctx, pay, Captured)
	case StatusRefused, StatusVoided:
		return p.refused(ctx, pay, res)
	case StatusRefunded:
		return p.end(ctx, pay, Failed, refundedThere)
	}
	return fmt.Errorf("capture: the provider has %q on record", res.Status)
}

// refused gives the authorisation back before the order is cancelled, so that no money stays
// reserved for what is not sold.
func (p *Payments) refused(ctx context.Context, pay *Payment, why Result) error {
	res, err := p.ask(ctx, pay, "void", func(ctx context.Context) (Result, error) { return p.provider.Void(ctx, pay.ID) })
	if err != nil {
		return err
	}
	switch res.Status {
	case StatusCaptured: // refused and captured after all: what is on record counts
		return p.forward(ctx, pay, Captured)
	case StatusVoided, StatusRefused:
		return p.end(ctx, pay, Failed, "capture refused: "+why.Reason)
	case StatusRefunded:
		return p.end(ctx, pay, Failed, refundedThere)
	}
	return fmt.Errorf("void: the provider has %q on record", res.Status)
}

// takeBack ends a payment whose hold is gone: voided at the provider, or refunded in full if it
// was captured. That is decided in SQL first, because another worker may be about to confirm.
func (p *Payments) takeBack(ctx context.Context, pay *Payment) error {
	if err := p.giveUp(ctx, pay); err != nil {
		return err
	}
	res, err := p.ask(ctx, pay, "void", func(ctx context.Context) (Result, error) { return p.provider.Void(ctx, pay.ID) })
	if err != nil {
		return err
	}
	if res.Status == StatusCaptured {
		res, err = p.ask(ctx, pay, "refund", func(ctx context.Context) (Result, error) { return p.provider.Refund(ctx, pay.ID) })
		if err != nil {
			return err
		}
	}
	switch res.Status {
	case StatusVoided:
		return p.end(ctx, pay, Voided, "the hold was gone")
	case StatusRefunded:
		return p.end(ctx, pay, Refunded, "the hold was gone")
	case StatusRefused:
		return p.end(ctx, pay, Failed, "refused: "+res.Reason)
	}
	return fmt.Errorf("void: the provider has %q on record", res.Status)
}

// end is the last step of a payment without a sale: the ledger gives back what it held or
// posted, the goods are free, an order is cancelled.
func (p *Payments) end(ctx context.Context, pay *Payment, to State, reason string) error {
	if err := p.at("before end"); err != nil {
		return err
	}
	err := p.move(ctx, pay, to, func(ctx context.Context, tx *sqldb.Tx, next *Payment) error {
		next.Reason = shorten(reason)
		if err := p.goods.Abandon(ctx, tx, pay.claim()); err != nil {
			return err
		}
		if pay.State == Capturing {
			return post(ctx, tx, ledger.Refund{ID: pay.ID + ":refund", Transfer: pay.ID})
		}
		return post(ctx, tx, ledger.Void{ID: pay.ID + ":void", Transfer: pay.ID})
	})
	if err != nil {
		return err
	}
	if err := p.at("after end"); err != nil {
		return err
	}
	p.goods.After(ctx, pay.claim())
	return nil
}
