package flashsale

import (
	"context"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
)

const (
	watchEvery = time.Second
	// doubts is after how many looks a contradiction is none that passes: a permit whose row
	// does not come lapses sooner.
	doubts = 10
	// doubtRest is how many looks go by before a sale is compared again.
	doubtRest = 20
	// markIdle and termsIdle are after how long without a buyer memory of a sale is given back.
	markIdle  = time.Minute
	termsIdle = time.Hour
)

// watched is what watch remembers of a sale; nobody else touches it.
type watched struct {
	attempts int64
	since    time.Time // of the last attempt
	doubt    int       // looks in a row at which gate and SQL contradicted each other
}

// watch looks at the sales that have buyers. A store that came back with an old snapshot, or
// that evicts keys, has permits that no row wants, or lacks some: then the gate is full while
// SQL has units, or open while SQL has none. It also forgets sales without buyers.
func (s *Sales) watch(ctx context.Context) error {
	busy := s.busy(time.Now())
	if len(busy) == 0 {
		return nil
	}
	full, err := s.fullInSQL(ctx, busy)
	if err != nil {
		return err
	}
	for _, t := range busy {
		out, err := mark.Do(ctx, s.store, markIn{Permits: permitsKey(t.ID), Spent: spentKey(t.ID), Gate: gateKey(t.ID), Most: -1})
		if err != nil {
			return err
		}
		w := &t.watched
		if out.Outcome == markNone || (out.Outcome != markFree) == full[t.ID] {
			w.doubt = min(w.doubt, 0)
			continue
		}
		if w.doubt++; w.doubt < doubts {
			continue
		}
		w.doubt = -doubtRest
		if err := s.compare(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// busy returns the sales that somebody has asked for since the last look.
func (s *Sales) busy(now time.Time) (busy []*terms) {
	s.known.Range(func(id, value any) bool {
		t := value.(*terms)
		w := &t.watched
		switch n := t.attempts.Load(); {
		case n != w.attempts || w.since.IsZero():
			w.attempts, w.since = n, now
			busy = append(busy, t)
		case now.Sub(w.since) > termsIdle:
			s.known.Delete(id)
		case now.Sub(w.since) > markIdle:
			t.mark.last.Store(nil)
		}
		return true
	})
	return busy
}

func (s *Sales) fullInSQL(ctx context.Context, busy []*terms) (full map[string]bool, err error) {
	var list sqldb.Rows
	for _, t := range busy {
		list.Add(t.ID)
	}
	err = s.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		full = map[string]bool{}
		return each(ctx, tx, func(scan func(...any) error) error {
			var id string
			err := scan(&id)
			full[id] = true
			return err
		}, `SELECT id FROM sales WHERE id IN (SELECT id FROM `+tx.List("$1", "id text")+`) AND sold + held >= stock`, list)
	})
	return full, err
}

// compare makes the permits of a sale follow its rows, all of them.
func (s *Sales) compare(ctx context.Context, t *terms) error {
	s.opts.Logger.Warn("flashsale: gate and SQL contradict each other; comparing all permits", "sale", t.ID)
	r := reconciler{sales: s}
	return r.sale(ctx, t.ID)
}
