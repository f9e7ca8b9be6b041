package store

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

const (
	sweepEvery = 100 * time.Millisecond
	// sweepBatch bounds what one round of sweeping removes; what is left is next.
	sweepBatch = 1000
	// sweepRounds bounds how many there are at a time.
	sweepRounds = 10
)

// sweeper removes keys whose deadline has passed. Decisions do not depend on it, for them such
// a key does not exist; it gives the room back.
//
// A key that was prolonged may have kept its place in the order of deadlines; the sweeper moves it
// to the deadline that the key has by then.
//
// It remembers where the next deadline can be at the earliest. Without that each round would
// walk over all that earlier rounds have deleted and Pebble has not yet forgotten.
type sweeper struct{ next atomic.Int64 } // ms

// expect is told of each deadline that was written, after it was applied. 0 is none.
func (w *sweeper) expect(ms int64) {
	for ms != 0 {
		next := w.next.Load()
		if ms >= next || w.next.CompareAndSwap(next, ms) {
			return
		}
	}
}

// sweep makes rounds until one finds that nothing is left, or until it is time for others.
func (e *embedded) sweep() {
	for range sweepRounds {
		if e.ping(e.ctx) != nil || !e.sweepRound() {
			return
		}
	}
}

// sweepRound says whether there may be more.
func (e *embedded) sweepRound() bool {
	until := e.clock.now() / 1000
	from := e.sweeper.next.Swap(until) // whoever writes an earlier one from now on says so
	found, err := e.due(from, until)
	if err != nil {
		e.sweeper.expect(max(from, 1))
		e.opts.Logger.Warn("store: sweep", "error", err)
		return false
	}
	for _, x := range found {
		if err := e.removeDue(x); err != nil { // it is tried again when the store is opened
			e.opts.Logger.Warn("store: sweep", "key", x.key, "error", err)
		}
	}
	switch {
	case len(found) == sweepBatch:
		e.sweeper.expect(found[len(found)-1].ms)
		return true
	case len(found) == 0:
		e.wake(until)
	}
	return false
}

// wake has the clock's mark moved when a deadline has passed that the mark hides: a store
// without decisions does not move it otherwise.
func (e *embedded) wake(until int64) {
	wall := e.clock.wall().UnixMicro() / 1000
	if wall <= until {
		return
	}
	if hidden, err := e.due(until, wall); err == nil && len(hidden) > 0 {
		e.clock.ask()
	}
}

// deadline is an entry of the index.
type deadline struct {
	ms  int64
	key string
}

// due lists entries from one deadline to before another, the earliest first.
func (e *embedded) due(from, until int64) ([]deadline, error) {
	it, err := e.db.NewIter(&pebble.IterOptions{
		LowerBound: deadlineKey(from, ""),
		UpperBound: deadlineKey(until, ""),
	})
	if err != nil {
		return nil, err
	}
	var found []deadline
	for ok := it.First(); ok && len(found) < sweepBatch; ok = it.Next() {
		if k := it.Key(); len(k) >= 9 {
			found = append(found, deadline{int64(binary.BigEndian.Uint64(k[1:9])), string(k[9:])})
		}
	}
	return found, it.Close()
}

// removeDue removes a key, or moves its place if its deadline is a later one. Nobody waits for it to be on disk: what
// has passed its deadline is gone with or without it.
func (e *embedded) removeDue(x deadline) error {
	slot := Slot(x.key)
	s := &e.slots[slot]
	s.mu.Lock()
	defer s.mu.Unlock()
	tx := newTx(e, s, slot, []string{x.key})
	defer tx.end()
	k := tx.entry(x.key)
	if k != nil && k.lapsed {
		tx.clear(k)
	}
	tx.remove(tx.due(x.ms, x.key))
	if k != nil && k.place == x.ms {
		k.place, k.moved = 0, true // it gets one at the deadline that it has by now, if it has one
	}
	if err := tx.finish(call{}); err != nil {
		return fmt.Errorf("remove %q: %w", x.key, err)
	}
	if err := e.apply(tx); err != nil {
		return err
	}
	s.keep(tx)
	return nil
}
