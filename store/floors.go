package store

import "math"

// floors remembers, for sorted sets of one slot, a score that none of their members is below.
//
// A set whose lowest members go away again and again (deadlines that pass) leaves a trail of
// deletions at its low end, and until Pebble has forgotten them every look from the beginning
// would walk over all of them. From the floor on there are few. It is knowledge and not data:
// kept in memory, for some sets, and always allowed to be lower than it could be.
type floors map[string]int64

const (
	maxFloors = 16 // sets of one slot
	unknown   = math.MinInt64
	never     = math.MaxInt64 // the set has no members
)

func (f floors) of(key string) int64 {
	if floor, ok := f[key]; ok {
		return floor
	}
	return unknown
}

// keep takes over what a Tx has learned, once what it wrote is applied.
func (s *slotState) keep(tx *Tx) {
	tx.keepFloors(&s.floors)
	s.recent.keep(tx.entries)
}

func (tx *Tx) keepFloors(to *floors) {
	for _, e := range tx.entries {
		switch _, known := (*to)[e.key]; {
		case e.rec.typ != typeZset || e.floor == unknown:
			if known {
				delete(*to, e.key)
			}
			continue
		case *to == nil:
			*to = floors{}
		case !known && len(*to) >= maxFloors:
			clear(*to)
		}
		(*to)[e.key] = e.floor
	}
}
