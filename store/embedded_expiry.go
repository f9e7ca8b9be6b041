package store

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
)

// sweepBatch bounds what one round of sweeping removes; what is left is next. Reads do not
// depend on it: a key past its deadline does not exist.
const sweepBatch = 1000

// sweep removes keys whose deadline has passed.
func (e *embedded) sweep() {
	now, err := e.clock.now()
	if err != nil {
		return
	}
	for _, key := range e.due(now) {
		s := &e.slots[Slot(key)]
		_, _, err := e.decide(s, func(tx *Tx) {
			if ent := tx.entry(key); ent != nil && ent.rec.typ == typeNone && ent.stored.typ != typeNone {
				tx.clear(ent)
			}
		})
		if err != nil {
			return
		}
	}
}

// due lists keys whose deadline has passed, the oldest first.
func (e *embedded) due(now int64) []string {
	it, err := e.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{spaceDeadline},
		UpperBound: deadlineKey(now/1000, ""),
	})
	if err != nil {
		return nil
	}
	var keys []string
	for ok := it.First(); ok && len(keys) < sweepBatch; ok = it.Next() {
		if k := it.Key(); len(k) > 9 && int64(binary.BigEndian.Uint64(k[1:9])) < now/1000 {
			keys = append(keys, string(k[9:]))
		}
	}
	if it.Close() != nil {
		return nil
	}
	return keys
}
