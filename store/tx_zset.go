package store

import (
	"math"

	"github.com/cockroachdb/pebble/v2"
)

// Member is one element of a sorted set.
type Member struct {
	Name  string
	Score int64
}

// ZAdd sets a member's score and tells whether the member is new.
func (tx *Tx) ZAdd(key string, score int64, member string) bool {
	if !tx.inRange(key, score) {
		return false
	}
	e := tx.made(key, typeZset)
	if e == nil {
		return false
	}
	old, had := tx.score(key, member)
	switch {
	case tx.err != nil, had && old == score:
		return false
	case had:
		tx.remove(orderKey(key, old, member))
	default:
		tx.count(e, 1)
	}
	tx.write(elementKey(spaceScore, key, member), scoreBytes(score))
	tx.write(orderKey(key, score, member), nil)
	return !had
}

// ZScore is a member's score, and whether it is there.
func (tx *Tx) ZScore(key, member string) (int64, bool) {
	if tx.typed(key, typeZset) == nil {
		return 0, false
	}
	return tx.score(key, member)
}

func (tx *Tx) score(key, member string) (int64, bool) {
	b, ok := tx.read(elementKey(spaceScore, key, member))
	if !ok {
		return 0, false
	}
	n, err := parseScore(b)
	if err != nil {
		tx.fail(err)
		return 0, false
	}
	return n, true
}

// ZRem removes members and returns how many there were.
func (tx *Tx) ZRem(key string, members ...string) int64 {
	var n int64
	for _, member := range members {
		e := tx.typed(key, typeZset)
		if e == nil {
			return n
		}
		if score, ok := tx.score(key, member); ok {
			tx.removeMember(e, score, member)
			n++
		}
	}
	return n
}

func (tx *Tx) removeMember(e *entry, score int64, member string) {
	tx.remove(elementKey(spaceScore, e.key, member))
	tx.remove(orderKey(e.key, score, member))
	tx.count(e, -1)
}

// ZCard is the number of members.
func (tx *Tx) ZCard(key string) int64 {
	if e := tx.typed(key, typeZset); e != nil {
		return e.rec.count
	}
	return 0
}

// ZCount is the number of members whose score is min to max, both included. It costs as many
// steps as there are members inside the range or outside of it, whichever are fewer.
func (tx *Tx) ZCount(key string, minScore, maxScore int64) int64 {
	e := tx.typed(key, typeZset)
	if e == nil || minScore > maxScore {
		return 0
	}
	prefix := elementKey(spaceOrder, key, "")
	from, to := bounds(key, minScore, maxScore)
	below, above, inside := tx.iter(prefix, from), tx.iter(to, after(prefix)), tx.iter(from, to)
	defer func() {
		for _, it := range []*pebble.Iterator{below, above, inside} {
			if it != nil {
				tx.closeIter(it)
			}
		}
	}()
	if tx.err != nil {
		return 0
	}
	var in, out int64
	low, high, mid := below.First(), above.First(), inside.First()
	for mid {
		switch { // one step outside for each step inside
		case low:
			out++
			low = below.Next()
		case high:
			out++
			high = above.Next()
		default:
			return e.rec.count - out
		}
		in++
		mid = inside.Next()
	}
	return in
}

// bounds is where members with these scores stand in the order: [from, to).
func bounds(key string, minScore, maxScore int64) (from, to []byte) {
	from = orderKey(key, minScore, "")
	if maxScore == math.MaxInt64 {
		return from, after(elementKey(spaceOrder, key, ""))
	}
	return from, orderKey(key, maxScore+1, "")
}

// ZRange is up to limit members (0 for all) whose score is min to max, both included, by score
// and then by the bytes of the name.
func (tx *Tx) ZRange(key string, minScore, maxScore int64, limit int) []Member {
	if tx.typed(key, typeZset) == nil || minScore > maxScore {
		return nil
	}
	var all []Member
	skip := len(elementKey(spaceOrder, key, ""))
	from, to := bounds(key, minScore, maxScore)
	tx.scan(from, to, func(k, _ []byte) bool {
		score, err := parseScore(k[skip : skip+8])
		if err != nil {
			tx.fail(err)
			return false
		}
		all = append(all, Member{Name: string(k[skip+8:]), Score: score})
		return limit == 0 || len(all) < limit
	})
	return all
}

// ZRemRange removes the members whose score is min to max, both included, and returns how many
// there were.
func (tx *Tx) ZRemRange(key string, minScore, maxScore int64) int64 {
	e := tx.typed(key, typeZset)
	if e == nil {
		return 0
	}
	members := tx.ZRange(key, minScore, maxScore, 0)
	for _, m := range members {
		tx.removeMember(e, m.Score, m.Name)
	}
	return int64(len(members))
}
