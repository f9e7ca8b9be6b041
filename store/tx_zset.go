package store

// Member is one element of a sorted set.
type Member struct {
	Name  string
	Score int64
}

// ZAdd sets a member's score and tells whether the member is new.
func (tx *Tx) ZAdd(key string, score int64, member string) bool {
	if !tx.inRange(key, score) || !tx.named(member) {
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
		tx.remove(tx.rank(key, old, member))
	default:
		tx.count(e, 1)
	}
	e.floor = min(e.floor, score)
	tx.put(tx.place(spaceScore, key, member), appendScore(nil, score))
	tx.put(tx.rank(key, score, member), nil)
	return !had
}

// ZScore is a member's score, and whether it is there.
func (tx *Tx) ZScore(key, member string) (int64, bool) {
	if tx.typed(key, typeZset) == nil || !tx.named(member) {
		return 0, false
	}
	return tx.score(key, member)
}

func (tx *Tx) score(key, member string) (int64, bool) {
	s, ok := tx.get(tx.place(spaceScore, key, member))
	if !ok {
		return 0, false
	}
	n, err := parseScore(s)
	if err != nil {
		tx.fail(err)
		return 0, false
	}
	return n, true
}

// ZRem removes members and returns how many there were. A set without members is gone.
func (tx *Tx) ZRem(key string, members ...string) int64 {
	var n int64
	for _, member := range members {
		e := tx.typed(key, typeZset)
		if e == nil || !tx.named(member) {
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
	tx.remove(tx.place(spaceScore, e.key, member))
	tx.remove(tx.rank(e.key, score, member))
	tx.count(e, -1)
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
	if minScore <= e.floor {
		e.floor = max(e.floor, min(maxScore, MaxInt)+1)
	}
	return int64(len(members))
}

// ZCard is the number of members.
func (tx *Tx) ZCard(key string) int64 {
	if e := tx.typed(key, typeZset); e != nil {
		return e.rec.count
	}
	return 0
}

// ZRange is up to limit members (0 for all) whose score is min to max, both included, by score
// and then by the bytes of the name.
func (tx *Tx) ZRange(key string, minScore, maxScore int64, limit int) []Member {
	var all []Member
	if e := tx.typed(key, typeZset); e != nil {
		tx.walk(e, minScore, maxScore, func(score int64, member []byte) bool {
			all = append(all, Member{Name: string(member), Score: score})
			return limit <= 0 || len(all) < limit
		})
	}
	if tx.err != nil {
		return nil
	}
	return all
}

// enough is how many members are counted outside of a range before the inside is counted too.
const enough = 1000

// ZCount is the number of members whose score is min to max, both included. It costs as many
// steps as there are members inside the range, or outside of it if those are fewer.
func (tx *Tx) ZCount(key string, minScore, maxScore int64) int64 {
	e := tx.typed(key, typeZset)
	if e == nil || minScore > maxScore {
		return 0
	}
	for limit := int64(enough); ; limit *= 2 {
		out := tx.countUpTo(e, MinInt, minScore-1, limit)
		if out < limit {
			out += tx.countUpTo(e, maxScore+1, MaxInt, limit-out)
		}
		if out < limit {
			return e.rec.count - out
		}
		if in := tx.countUpTo(e, minScore, maxScore, limit); in < limit {
			return in
		}
		if tx.err != nil {
			return 0
		}
	}
}

func (tx *Tx) countUpTo(e *entry, minScore, maxScore, limit int64) int64 {
	var n int64
	tx.walk(e, minScore, maxScore, func(int64, []byte) bool {
		n++
		return n < limit
	})
	return n
}

// walk calls fn for the members from min to max in order until it returns false, and learns
// where the set begins.
func (tx *Tx) walk(e *entry, minScore, maxScore int64, fn func(score int64, member []byte) bool) {
	minScore, maxScore = max(minScore, MinInt), min(maxScore, MaxInt)
	fromStart := minScore <= max(e.floor, MinInt)
	if minScore = max(minScore, e.floor); minScore > maxScore {
		return
	}
	first := maxScore + 1
	skip := len(e.key) + 5
	tx.scan(orderKey(e.key, minScore, ""), orderKey(e.key, maxScore+1, ""), func(k, _ []byte) bool {
		score, err := parseScore(string(k[skip : skip+8]))
		if err != nil {
			tx.fail(err)
			return false
		}
		first = min(first, score)
		return fn(score, k[skip+8:])
	})
	if fromStart && tx.err == nil {
		e.floor = max(e.floor, first)
	}
}

// rank is where a member stands in the order of scores. It is good until the next place.
func (tx *Tx) rank(key string, score int64, member string) []byte {
	tx.buf = appendOrder(tx.buf[:0], key, score, member)
	return tx.buf
}
