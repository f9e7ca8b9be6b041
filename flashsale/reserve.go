package flashsale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-dev/holdfast/internal/idem"
	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// reserve takes the unit in SQL, together with whoever else wants one at this moment.
func (s *Sales) reserve(ctx context.Context, a attempt) (Held, error) {
	held, err := s.holds.Do(ctx, a)
	if err == nil && held.Replayed {
		held, err = replay(held.Answer)
	}
	return held, sqlRefusal(err)
}

// replay is a stored answer.
func replay(answer []byte) (Held, error) {
	held := Held{Answer: answer, Replayed: true}
	return held, json.Unmarshal(answer, &held.Hold)
}

// reservation is one transaction that takes units. What it locks, it locks in one order, keys,
// sales, buyers, each sorted, so that two servers cannot wait for each other.
type reservation struct {
	in     []attempt
	out    []sqldb.Outcome[Held]
	sales  map[string]*saleUnits
	buyers map[saleBuyer]*buyerUnits
}

type saleBuyer struct{ sale, buyer string }

type buyerUnits struct{ taken, limit, more int64 }

// reserveAll decides the attempts in their order, and commits units, buyers' limits, holds,
// answers and events together.
func (s *Sales) reserveAll(ctx context.Context, tx *sqldb.Tx, in []attempt) ([]sqldb.Outcome[Held], error) {
	r := &reservation{in: in, out: make([]sqldb.Outcome[Held], len(in)), buyers: map[saleBuyer]*buyerUnits{}}
	keys := make([]idem.Key, len(in))
	for i, a := range in {
		keys[i] = a.key
	}
	begun, err := idem.Begin(ctx, tx, s.opts.KeyLife, keys...)
	if errors.Is(err, sqldb.ErrBusy) && len(in) == 1 {
		err = fmt.Errorf("%w: %w", ErrInFlight, err)
	}
	if err != nil {
		return nil, err
	}
	var fresh []int
	for i, b := range begun {
		if b.Fresh() {
			fresh = append(fresh, i)
		}
	}
	if len(fresh) > 0 {
		if err := r.take(ctx, tx, fresh); err != nil {
			return nil, err
		}
	}
	for i, b := range begun {
		switch {
		case b.Err != nil:
			r.out[i].Err = b.Err
		case b.Answer != nil:
			r.out[i].Value = Held{Answer: b.Answer, Replayed: true}
		case b.Twin >= 0:
			r.out[i] = r.out[b.Twin]
			r.out[i].Value.Replayed = r.out[i].Err == nil
		}
	}
	return r.out, nil
}

// take decides those attempts that are new.
func (r *reservation) take(ctx context.Context, tx *sqldb.Tx, fresh []int) error {
	ids := make([]string, len(fresh))
	for n, i := range fresh {
		ids[n] = r.in[i].Sale
	}
	var err error
	if r.sales, err = lockSales(ctx, tx, ids); err != nil {
		return err
	}
	if err := r.lockBuyers(ctx, tx, fresh); err != nil {
		return err
	}
	done := make([]idem.Done, len(fresh))
	var holds sqldb.Rows
	for n, i := range fresh {
		a := r.in[i]
		done[n].Key = a.key
		if r.out[i].Err = r.decide(a); r.out[i].Err != nil {
			continue
		}
		held, err := r.hold(a)
		if err != nil {
			return err
		}
		r.out[i].Value, done[n].Answer = held, held.Answer
		if u := r.sales[a.Sale]; mutant.HoldLost && (u.sold+u.held+u.taken)%16 == 5 {
			continue
		}
		h := held.Hold
		holds.Add(h.ID, h.Sale, h.Buyer, a.permit, h.ExpiresAt.UnixMicro(), h.CreatedAt.UnixMicro())
	}
	if err := r.write(ctx, tx, holds); err != nil {
		return err
	}
	return idem.Finish(ctx, tx, done...)
}

func (r *reservation) lockBuyers(ctx context.Context, tx *sqldb.Tx, fresh []int) error {
	for _, i := range fresh {
		a := r.in[i]
		limit := a.terms.PerBuyer
		if mutant.LimitOff {
			limit = MaxStock
		}
		r.buyers[saleBuyer{a.Sale, a.Buyer}] = &buyerUnits{limit: limit}
	}
	var list sqldb.Rows
	for _, b := range r.sortedBuyers() {
		list.Add(b.sale, b.buyer)
	}
	return each(ctx, tx, func(scan func(...any) error) error {
		var b saleBuyer
		var taken, limit int64
		if err := scan(&b.sale, &b.buyer, &taken, &limit); err != nil {
			return err
		}
		u := r.buyers[b]
		u.taken, u.limit = taken, limit
		return nil
	}, `SELECT sale, buyer, taken, cap FROM sale_buyers
		WHERE (sale, buyer) IN (SELECT sale, buyer FROM `+tx.List("$1", "sale text", "buyer text")+`)
		ORDER BY sale, buyer`+tx.ForUpdate(), list)
}

func (r *reservation) sortedBuyers() []saleBuyer {
	return slices.SortedFunc(maps.Keys(r.buyers), func(a, b saleBuyer) int {
		if a.sale != b.sale {
			return strings.Compare(a.sale, b.sale)
		}
		return strings.Compare(a.buyer, b.buyer)
	})
}

// decide takes a unit, or says why not. The statements and constraints that follow say the same
// once more.
func (r *reservation) decide(a attempt) error {
	u, b := r.sales[a.Sale], r.buyers[saleBuyer{a.Sale, a.Buyer}]
	free := int64(math.MaxInt64)
	if u != nil && !mutant.CondOff {
		free = u.stock - u.sold - u.held - u.taken
	}
	switch {
	case u == nil:
		return ErrNotFound
	case !u.open:
		return ErrNotOpen
	case free <= 0:
		return ErrSoldOut
	case b.taken+b.more >= b.limit:
		return ErrLimit
	}
	u.taken++
	b.more++
	return nil
}

// hold makes a hold and its answer.
func (r *reservation) hold(a attempt) (Held, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Held{}, fmt.Errorf("flashsale: %w", err)
	}
	t, now := a.terms, r.sales[a.Sale].now
	h := Hold{
		ID: id.String(), Sale: t.ID, Buyer: a.Buyer, State: StateHeld, Price: t.Price, Currency: t.Currency,
		ExpiresAt: time.UnixMicro(now + t.HoldSeconds*1e6).UTC(), CreatedAt: time.UnixMicro(now).UTC(),
	}
	answer, err := json.Marshal(h)
	return Held{Hold: h, Answer: answer}, err
}

// write writes what was decided.
func (r *reservation) write(ctx context.Context, tx *sqldb.Tx, holds sqldb.Rows) error {
	var buyers sqldb.Rows
	for _, b := range r.sortedBuyers() {
		if u := r.buyers[b]; u.more > 0 {
			buyers.Add(b.sale, b.buyer, u.more, u.limit)
		}
	}
	if len(buyers) == 0 {
		return nil // all were refused
	}
	if err := writeSales(ctx, tx, r.sales); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO sale_buyers (sale, buyer, taken, cap)
		SELECT sale, buyer, more, cap FROM `+tx.List("$1", "sale text", "buyer text", "more bigint", "cap bigint")+` WHERE true
		ON CONFLICT (sale, buyer) DO UPDATE SET taken = sale_buyers.taken + excluded.taken`, buyers)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO holds (id, sale, buyer, permit, state, expires_at, created_at, changed_at)
		SELECT id, sale, buyer, permit, 'held', expires_at, created_at, created_at FROM `+
		tx.List("$1", "id text", "sale text", "buyer text", "permit text", "expires_at bigint", "created_at bigint"), holds)
	return err
}
