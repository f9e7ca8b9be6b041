package store

import (
	"fmt"
	"strconv"
)

// Get is a string's value, and whether it exists.
func (tx *Tx) Get(key string) (string, bool) {
	e := tx.typed(key, typeString)
	if e == nil {
		return "", false
	}
	return e.rec.value, true
}

// Set makes key a string, whatever it was before. A deadline that has passed leaves no key.
func (tx *Tx) Set(key, value string, exp Expiry) {
	e := tx.entry(key)
	if e == nil {
		return
	}
	deadline := e.rec.deadline
	if !exp.keep {
		deadline = exp.ms()
	}
	tx.clear(e)
	if tx.passed(deadline) {
		return
	}
	tx.growing = true
	e.rec = record{typ: typeString, deadline: deadline, value: value}
}

// Int is a string's value as an integer, 0 for a key that does not exist.
func (tx *Tx) Int(key string) int64 {
	s, ok := tx.Get(key)
	if !ok {
		return 0
	}
	return tx.parse(key, s)
}

// SetInt is Set with an integer.
func (tx *Tx) SetInt(key string, n int64, exp Expiry) {
	if tx.inRange(key, n) {
		tx.Set(key, strconv.FormatInt(n, 10), exp)
	}
}

// Incr adds by to a string's integer and returns the sum. A key that does not exist counts as
// 0; the deadline stays.
func (tx *Tx) Incr(key string, by int64) int64 {
	n := tx.sum(key, tx.Int(key), by)
	tx.SetInt(key, n, Keep)
	return n
}

// sum is 0 after an error.
func (tx *Tx) sum(key string, a, b int64) int64 {
	if !tx.inRange(key, b) || !tx.inRange(key, a+b) {
		return 0
	}
	return a + b
}

func (tx *Tx) parse(key, s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		tx.fail(fmt.Errorf("%w: %q holds %.40q, not an integer", ErrWrongType, key, s))
		return 0
	}
	if !tx.inRange(key, n) {
		return 0
	}
	return n
}
