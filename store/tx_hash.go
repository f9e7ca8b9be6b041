package store

import "strconv"

// HGet is a field's value, and whether it exists.
func (tx *Tx) HGet(key, field string) (string, bool) {
	if tx.typed(key, typeHash) == nil {
		return "", false
	}
	b, ok := tx.read(elementKey(spaceField, key, field))
	return string(b), ok
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
	if e == nil {
		return
	}
	place := elementKey(spaceField, key, field)
	if _, ok := tx.read(place); !ok {
		tx.count(e, 1)
	}
	tx.write(place, []byte(value))
}

// HSetInt is HSet with an integer.
func (tx *Tx) HSetInt(key, field string, n int64) {
	if tx.inRange(key, n) {
		tx.HSet(key, field, strconv.FormatInt(n, 10))
	}
}

// HIncr adds by to a field's integer and returns the sum.
func (tx *Tx) HIncr(key, field string, by int64) int64 {
	n := tx.HInt(key, field) + by
	if tx.err != nil || !tx.inRange(key, n) {
		return 0
	}
	tx.HSetInt(key, field, n)
	return n
}

// HDel removes fields and returns how many there were.
func (tx *Tx) HDel(key string, fields ...string) int64 {
	var n int64
	for _, field := range fields {
		e := tx.typed(key, typeHash)
		if e == nil {
			return n
		}
		place := elementKey(spaceField, key, field)
		if _, ok := tx.read(place); ok {
			tx.remove(place)
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

// HAll is the whole hash, nil when there is none. It costs a read of every field.
func (tx *Tx) HAll(key string) map[string]string {
	e := tx.typed(key, typeHash)
	if e == nil {
		return nil
	}
	all := make(map[string]string, e.rec.count)
	prefix := elementKey(spaceField, key, "")
	tx.scan(prefix, after(prefix), func(k, v []byte) bool {
		all[string(k[len(prefix):])] = string(v)
		return true
	})
	return all
}
