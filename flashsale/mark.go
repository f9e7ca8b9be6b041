package flashsale

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/holdfast-dev/holdfast/internal/idem"
)

// markMost is up to how many ids a mark carries. A sale with more of them has no mark: each of
// its refusals is a decision.
const markMost = 10_000

// soldOutMark lets a process say "sold out" without asking anybody. It says so for at most
// MarkLife, measured from before it was fetched, and to nobody whose key had a permit then.
type soldOutMark struct {
	last       atomic.Pointer[markState]
	refreshing atomic.Bool
}

// markState is one answer of the mark decision. It does not change once it is published; the
// spent ids are kept from one to the next.
type markState struct {
	soldOut bool
	asked   time.Time // before the question was sent
	version int64
	known   int64 // spent deadline
	live    map[string]struct{}
	spent   map[string]struct{}
}

func (m *markState) has(permit string) bool {
	if _, ok := m.live[permit]; ok {
		return true
	}
	_, ok := m.spent[permit]
	return ok
}

// fromMark answers an attempt without the store if it can: "sold out", or for a key that may
// have an answer, what SQL says.
func (s *Sales) fromMark(ctx context.Context, t *terms, a attempt) (held Held, done bool, err error) {
	m := t.mark.last.Load()
	if m == nil || !m.soldOut {
		return held, false, nil
	}
	age := time.Since(m.asked)
	if age > s.opts.MarkLife/2 {
		s.refreshMark(t)
	}
	if age > s.opts.MarkLife {
		return held, false, nil
	}
	if !m.has(a.permit) {
		s.stats.fromMark.Add(1)
		return held, true, ErrSoldOut
	}
	answer, err := idem.Lookup(ctx, s.db, a.key)
	if err != nil {
		return held, true, sqlRefusal(err)
	}
	if answer == nil {
		return held, false, nil // its permit is there and its row is not: it may go on
	}
	held, err = replay(answer)
	return held, true, err
}

// refreshMark fetches the mark in the background, one fetch at a time.
func (s *Sales) refreshMark(t *terms) {
	if t.mark.refreshing.Load() || !t.mark.refreshing.CompareAndSwap(false, true) {
		return
	}
	running := s.background(func() {
		defer t.mark.refreshing.Store(false)
		if err := s.fetchMark(s.work, t); err != nil && s.work.Err() == nil {
			s.opts.Logger.Info("flashsale: no mark", "sale", t.ID, "error", err)
		}
	})
	if !running {
		t.mark.refreshing.Store(false)
	}
}

func (s *Sales) fetchMark(ctx context.Context, t *terms) error {
	old := t.mark.last.Load()
	if old == nil {
		old = &markState{}
	}
	next := &markState{asked: time.Now()}
	out, err := mark.Do(ctx, s.store, markIn{
		Permits: permitsKey(t.ID), Spent: spentKey(t.ID), Gate: gateKey(t.ID),
		Version: old.version, Known: old.known, Most: markMost,
	})
	if err != nil {
		return err
	}
	if out.Outcome == markChanged || out.Outcome == markSame {
		next.soldOut, next.version, next.known = true, out.Version, out.Known
		next.live = old.live
		if out.Outcome == markChanged {
			next.live = setOf(nil, out.Live)
		}
		next.spent = setOf(old.spent, out.Spent)
		if len(next.live)+len(next.spent) > 2*markMost { // spent ones are never taken out singly
			next = &markState{}
		}
	}
	t.mark.last.Store(next)
	return nil
}

// setOf is old and more. Old is not changed: somebody may be reading it.
func setOf(old map[string]struct{}, more []string) map[string]struct{} {
	fresh := 0
	for _, id := range more {
		if _, ok := old[id]; !ok {
			fresh++
		}
	}
	if fresh == 0 && old != nil {
		return old
	}
	all := make(map[string]struct{}, len(old)+fresh)
	for id := range old {
		all[id] = struct{}{}
	}
	for _, id := range more {
		all[id] = struct{}{}
	}
	return all
}
