package store

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Tx is what the Go body of a decision sees: a small data model, the same that a script has.
//
// A Tx belongs to one call of one body. It keeps its first error (ErrWrongType, ErrRange,
// ErrSlot, ErrCorrupt, or a failed read): from then on every call does nothing and returns
// zero values, Do returns the error, and nothing is written. So bodies need not check.
//
// Names (keys, fields, members, channels) have up to 64 KiB, and one decision writes up to
// 64 MiB; more is ErrRange.
type Tx struct {
	now  int64
	slot uint16
	keys []string // of the call

	db      *pebble.DB
	batch   *pebble.Batch // nil until the first write
	indexed bool          // batch can be read through
	buf     []byte        // for keys on their way to Pebble

	entries  []*entry
	of       *slotState // to be read only
	scratch  *scratch
	notes    []note
	growing  bool  // something was added, not only deleted
	earliest int64 // of the deadlines that were written, ms
	err      error
}

// scratch is memory that one Tx after the other uses. The Tx itself is new each time: a body that
// kept it must not meet another decision.
type scratch struct {
	buf     []byte
	entries []*entry
	first   entry
}

var scratches = sync.Pool{New: func() any { return &scratch{buf: make([]byte, 0, 256), entries: make([]*entry, 0, 4)} }}

// newTx begins a decision on a slot whose lock is held.
func newTx(e *embedded, s *slotState, slot uint16, keys []string) *Tx {
	m := scratches.Get().(*scratch)
	return &Tx{now: e.clock.now(), db: e.db, slot: slot, keys: keys, of: s, scratch: m, buf: m.buf, entries: m.entries}
}

// reuse gives the memory to the next one.
func (m *scratch) reuse(tx *Tx) {
	if cap(tx.buf) <= 4096 {
		m.buf = tx.buf[:0]
	}
	clear(m.entries[:cap(m.entries)])
	m.first = entry{}
	scratches.Put(m)
}

const (
	maxName  = 64 << 10
	maxWrite = 64 << 20
)

// entry is a key that this Tx has touched: its record as it will be, and as it is stored, both
// without their place in the order of deadlines.
type entry struct {
	key    string
	rec    record
	stored record // type none when nothing is stored
	place  int64  // of stored
	moved  bool   // it is to be stored although nothing else has changed
	lapsed bool   // stored is past its deadline and still in place
	holds  byte   // typeHash or typeZset: there can be elements of it in place
	floor  int64  // see floors
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
	return (e.at-1)/1000 + 1
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
	if exp.keep {
		return true
	}
	e.rec.deadline = exp.ms()
	if e.rec.deadline != 0 && e.rec.deadline <= tx.now/1000 {
		tx.clear(e)
	}
	return true
}

// Deadline is when the key goes away, in milliseconds since the epoch, and whether it will.
func (tx *Tx) Deadline(key string) (ms int64, ok bool) {
	e := tx.entry(key)
	if e == nil || e.rec.deadline == 0 {
		return 0, false
	}
	return e.rec.deadline, true
}

// Notify publishes payload to channel after the decision is as durable as it will be. It is a
// hint: see Store.Subscribe. The channel is one of the input's fields tagged
// `store:"channel"`; on an engine with a prefix a name of another origin would be heard by
// nobody, so it is ErrConfig.
func (tx *Tx) Notify(channel, payload string) {
	if tx.named(channel) {
		tx.notes = append(tx.notes, note{channel: channel, payload: payload})
	}
}

// NotifyKept is Notify for a channel that the decision has read from the store, where an earlier
// one put what it was given in a field tagged `store:"channel"`: so one caller can leave word
// how it is to be woken by another.
func (tx *Tx) NotifyKept(channel, payload string) {
	if tx.named(channel) {
		tx.notes = append(tx.notes, note{channel: channel, payload: payload, kept: true})
	}
}

func (tx *Tx) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

// named refuses names that are too long.
func (tx *Tx) named(name string) bool {
	if len(name) > maxName {
		tx.fail(fmt.Errorf("%w: a name of %d bytes, more than %d", ErrRange, len(name), maxName))
	}
	return tx.err == nil
}

func (tx *Tx) inRange(key string, n int64) bool {
	if n > MaxInt || n < MinInt {
		tx.fail(fmt.Errorf("%w: %q would become %d", ErrRange, key, n))
	}
	return tx.err == nil
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
	if !tx.named(key) || !tx.ours(key) {
		return nil
	}
	e := &tx.scratch.first
	if len(tx.entries) > 0 {
		e = &entry{}
	}
	e.key, e.floor = key, tx.of.floors.of(key)
	if !tx.load(e) {
		return nil
	}
	tx.entries = append(tx.entries, e)
	return e
}

// ours refuses keys of other slots: their locks are not held.
func (tx *Tx) ours(key string) bool {
	if !slices.Contains(tx.keys, key) && Slot(key) != tx.slot {
		tx.fail(fmt.Errorf("%w: %q is not in the slot of the decision's keys", ErrSlot, key))
		return false
	}
	return true
}

// load reads a key's record. It does not see what this Tx has written, so it comes first.
func (tx *Tx) load(e *entry) bool {
	s, ok, known := tx.of.recent.get(e.key)
	var err error
	if !known {
		tx.buf = append(append(tx.buf[:0], spaceRecord), e.key...)
		s, ok, err = copied(tx.db.Get(tx.buf))
	}
	if err == nil && ok {
		e.stored, err = decodeRecord(s)
	}
	if err != nil {
		tx.fail(fmt.Errorf("read %q: %w", e.key, err))
		return false
	}
	e.place, e.stored.place = e.stored.place, 0
	if e.stored.typ != typeString {
		e.holds = e.stored.typ
	}
	if tx.passed(e.stored.deadline) {
		e.lapsed = true
	} else {
		e.rec = e.stored
	}
	return true
}

// passed is the engines' rule: a key lives through the millisecond of its deadline.
func (tx *Tx) passed(deadline int64) bool { return deadline != 0 && tx.now/1000 > deadline }

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
	if e := tx.entry(key); e != nil && e.rec.typ == typeNone {
		tx.clear(e) // whatever one that has passed its deadline has left
		e.rec.typ, e.holds = typ, typ
	}
	tx.growing = true
	return tx.typed(key, typ)
}

// count changes how many elements there are; a key without any is gone.
func (tx *Tx) count(e *entry, by int64) {
	if e.rec.count += by; e.rec.count == 0 {
		e.rec, e.holds = record{}, typeNone
	}
}

// clear removes all that is stored for a key.
func (tx *Tx) clear(e *entry) {
	switch e.holds {
	case typeHash:
		tx.removeAll(elementKey(spaceField, e.key, ""))
	case typeZset:
		tx.removeAll(elementKey(spaceScore, e.key, ""))
		tx.removeAll(elementKey(spaceOrder, e.key, ""))
	}
	e.rec, e.holds, e.lapsed, e.floor = record{}, typeNone, false, never
}

// finish writes the records that have changed and returns the first error.
func (tx *Tx) finish(c call) error {
	for _, e := range tx.entries {
		if tx.err == nil && e.changed() {
			tx.store(e)
		}
	}
	if tx.wrote() && tx.batch.Len() > maxWrite {
		tx.fail(fmt.Errorf("%w: one decision writes %d bytes, more than %d", ErrRange, tx.batch.Len(), maxWrite))
	}
	if len(tx.notes) > 0 {
		tx.checkChannels(c)
	}
	return tx.err
}

// changed says whether the record is to be written. One that has lapsed and was not touched stays
// for the sweeper.
func (e *entry) changed() bool { return !e.lapsed && (e.moved || e.rec != e.stored) }

func (tx *Tx) store(e *entry) {
	tx.order(e)
	tx.buf = append(append(tx.buf[:0], spaceRecord), e.key...)
	if e.rec.typ == typeNone {
		tx.remove(tx.buf)
		return
	}
	n := len(tx.buf)
	r := e.rec
	r.place = e.place
	tx.buf = r.append(tx.buf)
	tx.put(tx.buf[:n], tx.buf[n:])
}

// order sees to it that the key has a place in the order of deadlines if it has a deadline. A
// place before that is good enough.
func (tx *Tx) order(e *entry) {
	d := e.rec.deadline
	if e.place != 0 && e.place <= d {
		return
	}
	if e.place != 0 {
		tx.remove(tx.due(e.place, e.key))
	}
	if e.place = d; d == 0 {
		return
	}
	tx.put(tx.due(d, e.key), nil)
	if tx.earliest == 0 || d < tx.earliest {
		tx.earliest = d
	}
}

// due is a place in the order of deadlines. It is good until the next place.
func (tx *Tx) due(ms int64, key string) []byte {
	tx.buf = appendDeadline(tx.buf[:0], ms, key)
	return tx.buf
}

func (tx *Tx) checkChannels(c call) {
	args := c.args()
	for _, note := range tx.notes {
		if !note.kept && !slices.ContainsFunc(c.channels, func(i int) bool { return args[i] == note.channel }) {
			tx.fail(fmt.Errorf("%w: channel %q is in no input field tagged `store:\"channel\"`", ErrConfig, note.channel))
		}
	}
}

var errTxOver = errors.New("store: a Tx was used after its decision")

// end frees what a Tx holds. What was applied stays.
func (tx *Tx) end() {
	if tx.batch != nil {
		_ = tx.batch.Close() // frees memory only
		tx.batch = nil
	}
	tx.err = errTxOver // for a body that kept it
	tx.scratch.reuse(tx)
	tx.buf, tx.entries, tx.scratch = nil, nil, nil
}
