package store

import "strconv"

// HGet is a field's value, and whether it exists.
func (tx *Tx) HGet(key, field string) (string, bool) {
	if tx.typed(key, typeHash) == nil || !tx.named(field) {
		return "", false
	}
	return tx.get(tx.place(spaceField, key, field))
}

// HInt is a field's value as an integer, 0 where there is none.
func (tx *Tx) HInt(key, field string) int64 {
	s, ok := tx.HGet(key, field)
	if !ok {
		return 0
	}
	return tx.parse(key, s)
}

// HSet sets a field; the key comes to be if it does not exist.
func (tx *Tx) HSet(key, field, value string) {
	e := tx.made(key, typeHash)
	if e == nil || !tx.named(field) {
		return
	}
	old, had := tx.get(tx.place(spaceField, key, field))
	if had && old == value {
		return
	}
	if !had {
		tx.count(e, 1)
	}
	tx.put(tx.place(spaceField, key, field), []byte(value))
}

// HSetInt is HSet with an integer.
func (tx *Tx) HSetInt(key, field string, n int64) {
	if tx.inRange(key, n) {
		tx.HSet(key, field, strconv.FormatInt(n, 10))
	}
}

// HIncr adds by to a field's integer, 0 where there is none, and returns the sum.
func (tx *Tx) HIncr(key, field string, by int64) int64 {
	n := tx.sum(key, tx.HInt(key, field), by)
	tx.HSetInt(key, field, n)
	return n
}

// HDel removes fields and returns how many there were. A hash without fields is gone.
func (tx *Tx) HDel(key string, fields ...string) int64 {
	var n int64
	for _, field := range fields {
		e := tx.typed(key, typeHash)
		if e == nil || !tx.named(field) {
			return n
		}
		if _, ok := tx.get(tx.place(spaceField, key, field)); ok {
			tx.remove(tx.place(spaceField, key, field))
			tx.count(e, -1)
			n++
		}
	}
	return n
}

// HLen is the number of fields.
func (tx *Tx) HLen(key string) int64 {
	if e := tx.typed(key, typeHash); e != nil {
		return e.rec.count
	}
	return 0
}

// HAll is the whole hash, nil when there is none. It costs a read of every field. No decision
// may depend on the order in which it is walked.
func (tx *Tx) HAll(key string) map[string]string {
	e := tx.typed(key, typeHash)
	if e == nil {
		return nil
	}
	all := make(map[string]string, min(e.rec.count, 1024))
	prefix := elementKey(spaceField, key, "")
	tx.scan(prefix, after(prefix), func(k, v []byte) bool {
		all[string(k[len(prefix):])] = string(v)
		return true
	})
	if tx.err != nil {
		return nil
	}
	return all
}

// place is where an element is stored. It is good until the next one.
func (tx *Tx) place(space byte, key, element string) []byte {
	tx.buf = appendElement(tx.buf[:0], space, key, element)
	return tx.buf
}
