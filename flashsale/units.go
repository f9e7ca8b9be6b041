package flashsale

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// saleUnits is a sale's row, locked, and what the transaction is about to change in it.
type saleUnits struct {
	stock, held, sold int64
	version           int64
	now               int64 // by the engine's clock
	open              bool

	taken, confirmed int64
}

// lockSales keeps the rows of sales until the transaction ends, in the order of their ids:
// whatever changes their numbers comes one after the other.
func lockSales(ctx context.Context, tx *sqldb.Tx, ids []string) (map[string]*saleUnits, error) {
	sales := map[string]*saleUnits{}
	var list sqldb.Rows
	for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
		list.Add(id)
	}
	return sales, each(ctx, tx, func(scan func(...any) error) error {
		var id string
		u := &saleUnits{}
		err := scan(&id, &u.stock, &u.held, &u.sold, &u.version, &u.open, &u.now)
		sales[id] = u
		return err
	}, `SELECT id, stock, held, sold, version, opens_at <= holdfast_now(), holdfast_now() FROM sales
		WHERE id IN (SELECT id FROM `+tx.List("$1", "id text")+`) ORDER BY id`+tx.ForUpdate(), list)
}

// writeSales is the conditional update of units that were taken or confirmed, with an event for
// each sale.
func writeSales(ctx context.Context, tx *sqldb.Tx, sales map[string]*saleUnits) error {
	var list sqldb.Rows
	var events []sqldb.Event
	for _, id := range slices.Sorted(maps.Keys(sales)) {
		u := sales[id]
		if u.taken+u.confirmed == 0 {
			continue
		}
		list.Add(id, u.taken-u.confirmed, u.confirmed, u.version)
		e, err := u.event().row(id)
		if err != nil {
			return err
		}
		events = append(events, e)
	}
	free := ` AND sold + held + more_held + more_sold <= stock`
	if mutant.CondOff {
		free = ``
	}
	n, err := tx.Exec(ctx, `
		UPDATE sales SET held = held + more_held, sold = sold + more_sold, version = version + 1
		FROM `+tx.List("$1", "sale text", "more_held bigint", "more_sold bigint", "seen bigint")+`
		WHERE sales.id = list.sale AND sales.version = list.seen`+free, list)
	if err != nil {
		return err
	}
	if n != int64(len(list)) {
		return errors.New("flashsale: a sale changed while it was locked")
	}
	return tx.PublishAll(ctx, events...)
}

// event is what watchers are told.
func (u *saleUnits) event() StockEvent {
	e := StockEvent{
		Stock: u.stock, Held: u.held + u.taken - u.confirmed, Sold: u.sold + u.confirmed, Version: u.version + 1,
		What: "held", Units: u.taken,
	}
	if u.confirmed > 0 {
		e.What, e.Units = "confirmed", u.confirmed
	}
	return e
}
