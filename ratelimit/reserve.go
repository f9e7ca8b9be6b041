package ratelimit

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Reservation is what was taken for a call whose cost is known only afterwards.
type Reservation struct {
	Decision
	n int // requests
}

// maxOver is how many times what a rule admits at once is charged at most for one call.
const maxOver = 10

// Reserve is Allow for costs that are known afterwards: each request's Cost is a guess, which Commit
// corrects. The id (1..64 letters, digits, - and _) names the reservation: a Reserve with the same id and the
// same requests takes once. It has to be settled within Options.ReserveFor; otherwise the guess stays counted.
// Errors: those of Allow, and ErrSettled.
func (l *Limiter) Reserve(ctx context.Context, id string, reqs []Request) (*Reservation, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	d, err := l.observed(ctx, reqs, modeReserve, id)
	if err != nil {
		return nil, err
	}
	return &Reservation{Decision: d, n: len(reqs)}, nil
}

// Commit says what the call came to, one number of units, 0 or more, for each request in order. What was taken too
// much is given back; what was taken too little is taken, also where a rule would refuse it: then the
// rule refuses others until it is made up for. Of more than ten times what a rule admits at once the
// rest is forgiven. Slots of Concurrency are given back. Where a window is over, nothing is corrected.
// A Commit is repeated without harm. Errors: ErrNotReserved, ErrSettled, ErrInvalid, ErrStore.
func (r *Reservation) Commit(ctx context.Context, actual ...int64) error {
	if len(actual) != r.n {
		return invalid("actual", "has %d numbers for %d requests", len(actual), r.n)
	}
	for _, n := range actual {
		if n < 0 || n > maxLimit {
			return invalid("actual", "%d is not in 0..%d", n, maxLimit)
		}
	}
	if !r.Allowed {
		return ErrNotReserved
	}
	for _, m := range r.calls {
		if err := m.commit(ctx, actual); err != nil {
			return err
		}
	}
	return nil
}

// Refund gives everything back: the call did not happen. Errors: those of Commit.
func (r *Reservation) Refund(ctx context.Context) error {
	return r.Commit(ctx, make([]int64, r.n)...)
}

func checkID(id string) error {
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) {
		return invalid("id", "is not 1..64 letters, digits, - and _")
	}
	return nil
}

func (m made) commit(ctx context.Context, actual []int64) error {
	came := func(w *wants) (sum int64) {
		for _, i := range w.requests {
			sum += actual[i]
		}
		return min(sum, maxOver*w.most)
	}
	in := m.settling("", came)
	words := make([]string, len(m.all))
	for i, w := range m.all {
		words[i] = strconv.FormatInt(came(w), 10)
	}
	in.Keys, in.CameTo = append(in.Keys, m.record()), strings.Join(words, ",")
	out, err := m.settle(ctx, in)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrStore, err)
	case out.Outcome == settledNothing:
		return ErrNotReserved
	case out.Outcome == settledOther:
		return ErrSettled
	}
	return nil
}
