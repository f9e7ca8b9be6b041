package flashsale

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/sqldb"
)

const (
	// overlap is how far a look back at changes goes behind the last one: a row is seen when
	// its transaction commits, which is later than the time that it carries. That is nearly
	// always little, so only every longEvery-th look goes back as far as it can be.
	overlap     = time.Second
	overlapLong = 10 * time.Second
	longEvery   = 5
	// settleTime is how old a change must be to be compared: until then the one who made it
	// is about to do that.
	settleTime = 500 * time.Millisecond
	// expireBatch is how many holds of one sale end in one transaction.
	expireBatch = 200
	// mostRest is the longest pause of what is compared page by page while buyers come.
	mostRest = 100 * time.Millisecond
)

// expire ends holds whose time is over, sale by sale.
func (s *Sales) expire(ctx context.Context) error {
	if mutant.ReturnOff {
		return nil
	}
	ctx = sqldb.Ending(ctx)
	var sales []string
	err := s.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		sales = nil
		return each(ctx, tx, func(scan func(...any) error) error {
			var id string
			err := scan(&id)
			sales = append(sales, id)
			return err
		}, `SELECT DISTINCT sale || '' FROM holds WHERE state = 'held' AND expires_at <= holdfast_now()`)
	})
	if err != nil {
		return err
	}
	var failed error // one sale that is stuck does not keep the others
	for _, sale := range sales {
		for n := expireBatch; n == expireBatch && err == nil; {
			n, err = s.expireSome(ctx, sale)
		}
		failed, err = errors.Join(failed, err), nil
	}
	return failed
}

func (s *Sales) expireSome(ctx context.Context, sale string) (int, error) {
	var permits, buyers []string
	err := s.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		permits, buyers = nil, nil
		due, err := lockDue(ctx, tx, sale)
		if err != nil || len(due) == 0 {
			return err
		}
		if err := lockSale(ctx, tx, sale); err != nil {
			return err
		}
		err = each(ctx, tx, func(scan func(...any) error) error {
			var permit, buyer string
			err := scan(&permit, &buyer)
			permits, buyers = append(permits, permit), append(buyers, buyer)
			return err
		}, `UPDATE holds SET state = 'expired', changed_at = holdfast_now()
			WHERE id IN (SELECT id FROM `+tx.List("$1", "id text")+`)
			RETURNING permit, buyer`, due)
		if err != nil || len(buyers) == 0 {
			return err
		}
		return freeUnits(ctx, tx, sale, "expired", buyers)
	})
	if err != nil || len(permits) == 0 {
		return 0, err
	}
	s.stats.expired.Add(int64(len(permits)))
	if err := s.at("expired"); err != nil {
		return 0, err
	}
	// SQL goes on, however long the store takes: other units are waiting to come back.
	s.background(func() { s.giveBackEnded(s.work, sale, permits...) })
	return len(permits), nil
}

// lockDue keeps holds whose time is over. One that somebody is about to extend or confirm is
// passed over: if nothing comes of that, the next look finds it.
func lockDue(ctx context.Context, tx *sqldb.Tx, sale string) (due sqldb.Rows, err error) {
	err = each(ctx, tx, func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		due.Add(id)
		return err
	}, `SELECT id FROM holds WHERE sale = $1 AND state = 'held' AND expires_at <= holdfast_now()
		ORDER BY expires_at LIMIT $2`+tx.SkipLocked(), sale, expireBatch)
	return due, err
}

// each runs a query and calls fn with every row.
func each(ctx context.Context, tx *sqldb.Tx, fn func(scan func(...any) error) error, query string, args ...any) error {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// reconciler makes permits follow the rows.
//
// A process that dies between SQL and the store leaves a permit that ends too early (SQL then
// refuses what the store admits), or one that never ends, of an order that was not made or was
// cancelled. Both are found by looking at the rows that have changed.
type reconciler struct {
	sales *Sales
	since int64 // changes up to here were compared, µs
	looks int
	usual bool // what it does is no mending: somebody has just changed the row
	paced bool // others have more of the engines than it has

	before, oldest int64 // what all has still to look at, µs
	last           string
}

// wanted is what one row wants of its permit.
type wanted struct {
	sale, permit string
	ended        bool
	life         int64 // µs; -1 for no deadline
}

// columns of wanted.
const wantedColumns = `sale, permit, state NOT IN ('held', 'confirmed'), CASE
	WHEN state = 'held' AND expires_at > holdfast_now() THEN expires_at - holdfast_now()
	WHEN state = 'held' THEN 0 ELSE -1 END`

// all looks at every hold that anything can be wrong with, those that changed last before the others. Called again after an error it
// goes on where it was. (Holds that are live and older than that: live.)
func (r *reconciler) all(ctx context.Context) error {
	if r.before == 0 {
		now, err := r.now(ctx)
		if err != nil {
			return err
		}
		r.before = now + 1
		r.oldest = now - 2*r.sales.opts.KeyLife.Microseconds()
	}
	return r.walk(ctx, `WHERE changed_at >= $2 AND changed_at <= $3 AND (changed_at, id) < ($3, $4) ORDER BY changed_at DESC, id DESC`,
		func() []any { return []any{r.oldest, r.before, r.last} },
		func(at int64, id string) { r.before, r.last = at, id })
}

// walk compares holds page by page: those that where says, ordered, with the arguments behind the first; moved is told the last of each.
func (r *reconciler) walk(ctx context.Context, where string, args func() []any, moved func(at int64, id string)) error {
	for {
		began := time.Now()
		page, at, id, err := r.page(ctx, `SELECT id, changed_at, `+wantedColumns+` FROM holds `+where+` LIMIT $1`, append([]any{batch}, args()...)...)
		if err == nil {
			err = r.mend(ctx, page)
		}
		if err != nil {
			return err
		}
		if len(page) < batch {
			return nil
		}
		if moved(at, id); !r.rest(began) {
			return ctx.Err()
		}
	}
}

// page reads some holds in the order of their changes, and which was the last of them.
func (r *reconciler) page(ctx context.Context, query string, args ...any) (page []wanted, at int64, last string, err error) {
	err = r.sales.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		page = nil
		return each(ctx, tx, func(scan func(...any) error) error {
			var w wanted
			err := scan(&last, &at, &w.sale, &w.permit, &w.ended, &w.life)
			page = append(page, w)
			return err
		}, query, args...)
	})
	return page, at, last, err
}

// rest leaves the engines to others after a page, if that was asked for, and says whether to go on.
func (r *reconciler) rest(began time.Time) bool {
	return !r.paced || r.sales.wait(time.After(min(2*time.Since(began), mostRest)))
}

// latest looks at the last changes that there were, however long ago: what was on its way when a process died is among them, unless
// that took longer than overlapLong. From then on recent is enough for what changes.
func (r *reconciler) latest(ctx context.Context) error {
	var now, changed int64
	err := r.sales.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		return tx.Row(ctx, `SELECT holdfast_now(), coalesce((SELECT max(changed_at) FROM holds), 0)`).Scan(&now, &changed)
	})
	if err != nil {
		return err
	}
	if err = r.changes(ctx, changed-overlapLong.Microseconds(), now); err == nil {
		r.since = now
	}
	return err
}

// recent looks at what has changed since the last time.
func (r *reconciler) recent(ctx context.Context) error {
	now, err := r.now(ctx)
	if err != nil {
		return err
	}
	now -= settleTime.Microseconds()
	from := r.since - overlap.Microseconds()
	if r.looks++; r.looks%longEvery == 0 {
		from = r.since - overlapLong.Microseconds()
	}
	if err = r.changes(ctx, from, now); err == nil {
		r.since = now
	}
	return err
}

// changes compares the holds that changed in a time, in the order of their changes.
func (r *reconciler) changes(ctx context.Context, from, to int64) error {
	last := ""
	return r.walk(ctx, `WHERE changed_at >= $2 AND changed_at <= $3 AND (changed_at, id) > ($2, $4) ORDER BY changed_at, id`,
		func() []any { return []any{from, to, last} },
		func(at int64, id string) { from, last = at, id })
}

// live looks at every hold that is live.
func (r *reconciler) live(ctx context.Context) error {
	return r.pages(ctx, `state = 'held'`)
}

// sale looks at every hold of a sale that anything can be wrong with.
func (r *reconciler) sale(ctx context.Context, id string) error {
	now, err := r.now(ctx)
	if err != nil {
		return err
	}
	return r.pages(ctx, `sale = $3 AND (state IN ('held', 'confirmed') OR changed_at > $4)`,
		id, now-2*r.sales.opts.KeyLife.Microseconds())
}

// hold looks at one.
func (r *reconciler) hold(ctx context.Context, id string) error {
	return r.pages(ctx, `id = $3`, id)
}

func (r *reconciler) now(ctx context.Context) (now int64, err error) {
	err = r.sales.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		return tx.Row(ctx, `SELECT holdfast_now()`).Scan(&now)
	})
	return now, err
}

// pages compares all holds for which where is true.
func (r *reconciler) pages(ctx context.Context, where string, args ...any) error {
	last := ""
	return r.walk(ctx, `WHERE id > $2 AND `+where+` ORDER BY id`,
		func() []any { return append([]any{last}, args...) },
		func(_ int64, id string) { last = id })
}

// mend makes the permits of a page what their rows want.
func (r *reconciler) mend(ctx context.Context, page []wanted) error {
	extend, end := map[string][]string{}, map[string][]string{}
	for _, w := range page {
		switch {
		case w.ended:
			end[w.sale] = append(end[w.sale], w.permit)
		case w.life < 0:
			extend[w.sale] = append(extend[w.sale], w.permit, forever)
		case w.life > 0:
			extend[w.sale] = append(extend[w.sale], w.permit, fmt.Sprint(w.life))
		}
	}
	var mended int64
	for sale, items := range extend {
		if err := r.sales.extendPermits(ctx, sale, items, &mended); err != nil {
			return err
		}
	}
	for sale, permits := range end {
		n, err := r.sales.giveBack(ctx, sale, permits, 0, true)
		mended += n
		if err != nil {
			return err
		}
	}
	if mended > 0 && !r.usual {
		r.sales.stats.mended.Add(mended)
		r.sales.opts.Logger.Info("flashsale: permits mended", "permits", mended)
	}
	return nil
}
