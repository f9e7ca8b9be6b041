package store

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/cockroachdb/pebble/v2"
)

// Tx is what the Go body of a decision sees: a small data model, the same that a script has.
//
// A Tx belongs to one decision. It keeps its first error (ErrWrongType, ErrRange, ErrCorrupt):
// from then on every call does nothing and returns zero values, Do returns the error, and
// nothing is written. So bodies need not check.
type Tx struct {
	now     int64
	db      *pebble.DB
	batch   *pebble.Batch // nil until the first write
	entries []*entry
	notes   []note
	growing bool // something was added, not only deleted
	err     error
}

type note struct{ channel, payload string }

// entry is a key that this Tx has touched: its record as it will be, and as it is stored.
type entry struct {
	key    string
	rec    record
	stored record // type none when nothing is stored
	dirty  bool
}

// Expiry says when a key goes away.
type Expiry struct {
	at   int64 // µs
	keep bool
}

var (
	// Keep leaves a key's deadline as it is.
	Keep = Expiry{keep: true}
	// Forever takes a key's deadline away.
	Forever = Expiry{}
)

// Until is a deadline by the engine's clock, in microseconds since the epoch. Engines keep
// milliseconds; it is rounded up.
func Until(us int64) Expiry { return Expiry{at: max(us, 1)} }

// ms is the deadline as engines keep it.
func (e Expiry) ms() int64 {
	if e.at == 0 {
		return 0
	}
	return (e.at + 999) / 1000
}

func (tx *Tx) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

// Now is the engine's clock in microseconds since the epoch, the same for the whole decision.
// It never goes back, also over a restart.
func (tx *Tx) Now() int64 { return tx.now }

// Type is "string", "hash", "zset", or "none" for a key that does not exist.
func (tx *Tx) Type(key string) string {
	if e := tx.entry(key); e != nil {
		switch e.rec.typ {
		case typeString:
			return "string"
		case typeHash:
			return "hash"
		case typeZset:
			return "zset"
		}
	}
	return "none"
}

// Get is a string's value, and whether it exists.
func (tx *Tx) Get(key string) (string, bool) {
	e := tx.typed(key, typeString)
	if e == nil {
		return "", false
	}
	return e.rec.value, true
}

// Set makes key a string, whatever it was before.
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
	tx.growing = true
	e.rec = record{typ: typeString, deadline: deadline, value: value}
	e.dirty = true
	tx.lapse(e)
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
	n := tx.Int(key) + by
	if tx.err != nil || !tx.inRange(key, n) {
		return 0
	}
	tx.SetInt(key, n, Keep)
	return n
}

// Del removes keys of any type and returns how many there were.
func (tx *Tx) Del(keys ...string) int64 {
	var n int64
	for _, key := range keys {
		if e := tx.entry(key); e != nil && e.rec.typ != typeNone {
			tx.clear(e)
			n++
		}
	}
	return n
}

// Expire sets or takes away a key's deadline and tells whether the key exists. A deadline that
// has passed removes the key.
func (tx *Tx) Expire(key string, exp Expiry) bool {
	e := tx.entry(key)
	if e == nil || e.rec.typ == typeNone {
		return false
	}
	if !exp.keep {
		e.rec.deadline = exp.ms()
		e.dirty = true
		tx.lapse(e)
	}
	return true
}

// Deadline is when the key goes away, in milliseconds since the epoch, and whether it will.
func (tx *Tx) Deadline(key string) (ms int64, ok bool) {
	e := tx.entry(key)
	if e == nil || e.rec.typ == typeNone || e.rec.deadline == 0 {
		return 0, false
	}
	return e.rec.deadline, true
}

// Notify publishes payload to channel after the decision is as durable as it will be. It is a
// hint: see Store.Subscribe.
func (tx *Tx) Notify(channel, payload string) {
	tx.notes = append(tx.notes, note{channel, payload})
}

func (tx *Tx) inRange(key string, n int64) bool {
	if n > MaxInt || n < MinInt {
		tx.fail(fmt.Errorf("%w: %q would become %d", ErrRange, key, n))
		return false
	}
	return tx.err == nil
}

func (tx *Tx) parse(key, s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		tx.fail(fmt.Errorf("%w: %q holds %.40q, not an integer", ErrWrongType, key, s))
		return 0
	}
	tx.inRange(key, n)
	return n
}

// entry loads a key once. It is nil after an error.
func (tx *Tx) entry(key string) *entry {
	if tx.err != nil {
		return nil
	}
	for _, e := range tx.entries {
		if e.key == key {
			return e
		}
	}
	e := &entry{key: key}
	if b, ok := tx.read(recordKey(key)); ok {
		rec, err := decodeRecord(b)
		if err != nil {
			tx.fail(fmt.Errorf("%q: %w", key, err))
			return nil
		}
		e.rec, e.stored = rec, rec
	}
	if tx.err != nil {
		return nil
	}
	tx.entries = append(tx.entries, e)
	if e.rec.typ != typeNone && tx.passed(e.rec.deadline) {
		e.rec = record{} // elements that are left go with the first write, or with the sweeper
	}
	return e
}

// passed is the engines' rule: a key lives through the millisecond of its deadline.
func (tx *Tx) passed(deadline int64) bool { return deadline != 0 && tx.now/1000 > deadline }

// lapse removes a key whose new deadline is not in the future, as EXPIREAT does.
func (tx *Tx) lapse(e *entry) {
	if e.rec.deadline != 0 && e.rec.deadline <= tx.now/1000 {
		tx.clear(e)
	}
}

// typed is the entry of a key that exists with this type, otherwise nil.
func (tx *Tx) typed(key string, typ byte) *entry {
	e := tx.entry(key)
	if e == nil || e.rec.typ == typeNone {
		return nil
	}
	if e.rec.typ != typ {
		tx.fail(fmt.Errorf("%w: %q", ErrWrongType, key))
		return nil
	}
	return e
}

// made is typed, for a caller that is about to add an element: the key comes to be.
func (tx *Tx) made(key string, typ byte) *entry {
	e := tx.entry(key)
	if e == nil {
		return nil
	}
	if e.rec.typ == typeNone {
		tx.clear(e) // whatever an expired one has left
		e.rec.typ = typ
	}
	if e.rec.typ != typ {
		tx.fail(fmt.Errorf("%w: %q", ErrWrongType, key))
		return nil
	}
	e.dirty, tx.growing = true, true
	return e
}

// count changes how many elements there are; a key without any is gone.
func (tx *Tx) count(e *entry, by int64) {
	e.rec.count += by
	e.dirty = true
	if e.rec.count == 0 {
		e.rec = record{}
	}
}

// clear removes all that is stored for a key. Elements of the stored generation and those
// that this Tx added lie in the same place, so both go.
func (tx *Tx) clear(e *entry) {
	for _, typ := range []byte{e.rec.typ, e.stored.typ} {
		switch typ {
		case typeHash:
			tx.removeAll(elementKey(spaceField, e.key, ""))
		case typeZset:
			tx.removeAll(elementKey(spaceScore, e.key, ""))
			tx.removeAll(elementKey(spaceOrder, e.key, ""))
		}
		if e.rec.typ == e.stored.typ {
			break
		}
	}
	e.rec = record{}
	e.dirty = true
}

// finish writes the records that have changed.
func (tx *Tx) finish() {
	for _, e := range tx.entries {
		if !e.dirty || tx.err != nil {
			continue
		}
		if e.stored.deadline != 0 && e.stored.deadline != e.rec.deadline {
			tx.remove(deadlineKey(e.stored.deadline, e.key))
		}
		if e.rec.typ == typeNone {
			if e.stored.typ != typeNone {
				tx.remove(recordKey(e.key))
			}
			continue
		}
		tx.write(recordKey(e.key), e.rec.encode())
		if e.rec.deadline != 0 && e.rec.deadline != e.stored.deadline {
			tx.write(deadlineKey(e.rec.deadline, e.key), nil)
		}
	}
}

// read returns a copy. Before the first write it asks the database itself, which is cheaper
// than asking through an indexed batch.
func (tx *Tx) read(key []byte) ([]byte, bool) {
	get := tx.db.Get
	if tx.batch != nil {
		get = tx.batch.Get
	}
	b, closer, err := get(key)
	if err != nil {
		if !errors.Is(err, pebble.ErrNotFound) {
			tx.fail(fmt.Errorf("%w: read: %w", ErrUnavailable, err))
		}
		return nil, false
	}
	out := append([]byte(nil), b...)
	if err := closer.Close(); err != nil {
		tx.fail(fmt.Errorf("%w: read: %w", ErrUnavailable, err))
		return nil, false
	}
	return out, true
}

func (tx *Tx) write(key, value []byte) {
	if tx.err == nil {
		tx.fail(wrapWrite(tx.writer().Set(key, value, nil)))
	}
}

func (tx *Tx) remove(key []byte) {
	if tx.err == nil {
		tx.fail(wrapWrite(tx.writer().Delete(key, nil)))
	}
}

// fewElements are deleted one by one: a range deletion costs every later read of the range.
const fewElements = 64

// removeAll removes what begins with prefix.
func (tx *Tx) removeAll(prefix []byte) {
	var keys [][]byte
	tx.scan(prefix, after(prefix), func(k, _ []byte) bool {
		keys = append(keys, append([]byte(nil), k...))
		return len(keys) <= fewElements
	})
	if len(keys) > fewElements && tx.err == nil {
		tx.fail(wrapWrite(tx.writer().DeleteRange(prefix, after(prefix), nil)))
		return
	}
	for _, k := range keys {
		tx.remove(k)
	}
}

func (tx *Tx) writer() *pebble.Batch {
	if tx.batch == nil {
		tx.batch = tx.db.NewIndexedBatch()
	}
	return tx.batch
}

// iter opens an iterator over [from, to); nil after an error.
func (tx *Tx) iter(from, to []byte) *pebble.Iterator {
	if tx.err != nil {
		return nil
	}
	open := tx.db.NewIter
	if tx.batch != nil {
		open = tx.batch.NewIter
	}
	it, err := open(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		tx.fail(fmt.Errorf("%w: read: %w", ErrUnavailable, err))
		return nil
	}
	return it
}

// scan calls fn for [from, to) in order until it returns false. k and v are fn's only for the
// call.
func (tx *Tx) scan(from, to []byte, fn func(k, v []byte) bool) {
	it := tx.iter(from, to)
	if it == nil {
		return
	}
	for ok := it.First(); ok && fn(it.Key(), it.Value()); ok = it.Next() {
	}
	tx.closeIter(it)
}

func (tx *Tx) closeIter(it *pebble.Iterator) {
	if err := it.Close(); err != nil {
		tx.fail(fmt.Errorf("%w: read: %w", ErrUnavailable, err))
	}
}

func wrapWrite(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
