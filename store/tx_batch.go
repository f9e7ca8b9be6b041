package store

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// How a Tx reads and writes. Writes go into a batch, which is cheapest when it is only written
// to; what this Tx has written itself is then found by walking the batch while it is short.
// Only a long batch, or an iterator over what was written, makes it an indexed one.

// walked is the longest batch that is walked for each read.
const walked = 16

// fewElements are deleted one by one: a range deletion costs every later read of the range.
const fewElements = 64

func (tx *Tx) wrote() bool { return tx.batch != nil && !tx.batch.Empty() }

// get reads a key of an element, as this Tx has left it.
func (tx *Tx) get(key []byte) (string, bool) {
	if tx.err != nil {
		return "", false
	}
	if tx.wrote() && !tx.indexed {
		if tx.batch.Count() > walked {
			tx.index()
		} else if s, ok, found := tx.own(key); found {
			return s, ok
		}
	}
	get := tx.db.Get
	if tx.indexed {
		get = tx.batch.Get
	}
	s, ok, err := copied(get(key))
	if err != nil {
		tx.fail(err)
	}
	return s, ok
}

// copied keeps what Pebble lends.
func copied(b []byte, closer io.Closer, err error) (string, bool, error) {
	if errors.Is(err, pebble.ErrNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, unread(err)
	}
	s := string(b)
	if err := closer.Close(); err != nil {
		return "", false, unread(err)
	}
	return s, true, nil
}

// own finds what this Tx has last done to a key, in a batch that has no index.
func (tx *Tx) own(key []byte) (s string, ok, found bool) {
	r := tx.batch.Reader()
	for {
		kind, k, v, more, err := r.Next()
		if err != nil {
			tx.fail(unread(err))
			return "", false, true
		}
		if !more {
			return s, ok, found
		}
		if string(k) == string(key) {
			s, ok, found = string(v), kind == pebble.InternalKeyKindSet, true
		}
	}
}

// index makes the batch one that can be read through.
func (tx *Tx) index() {
	if tx.indexed || tx.err != nil {
		return
	}
	b := tx.db.NewIndexedBatch()
	if tx.batch != nil {
		if err := b.Apply(tx.batch, nil); err != nil {
			tx.fail(unwritten(err))
		}
		_ = tx.batch.Close() // it was copied
	}
	tx.batch, tx.indexed = b, true
}

func (tx *Tx) put(key, value []byte) {
	if b := tx.writer(); b != nil {
		if err := b.Set(key, value, nil); err != nil {
			tx.fail(unwritten(err))
		}
	}
}

func (tx *Tx) remove(key []byte) {
	if b := tx.writer(); b != nil {
		if err := b.Delete(key, nil); err != nil {
			tx.fail(unwritten(err))
		}
	}
}

// writer is nil after an error.
func (tx *Tx) writer() *pebble.Batch {
	if tx.err != nil {
		return nil
	}
	if tx.batch == nil {
		tx.batch = tx.db.NewBatch()
	}
	return tx.batch
}

// removeAll removes what begins with prefix.
func (tx *Tx) removeAll(prefix []byte) {
	var keys [][]byte
	tx.scan(prefix, after(prefix), func(k, _ []byte) bool {
		keys = append(keys, append([]byte(nil), k...))
		return len(keys) <= fewElements
	})
	if len(keys) <= fewElements {
		for _, k := range keys {
			tx.remove(k)
		}
		return
	}
	tx.index()
	if b := tx.writer(); b != nil {
		if err := b.DeleteRange(prefix, after(prefix), nil); err != nil {
			tx.fail(unwritten(err))
		}
	}
}

// iter opens an iterator over [from, to); nil after an error.
func (tx *Tx) iter(from, to []byte) *pebble.Iterator {
	if tx.wrote() {
		tx.index()
	}
	if tx.err != nil {
		return nil
	}
	open := tx.db.NewIter
	if tx.indexed {
		open = tx.batch.NewIter
	}
	it, err := open(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		tx.fail(unread(err))
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
	tx.done(it)
}

// done closes an iterator, which tells of an error that ended it early.
func (tx *Tx) done(it *pebble.Iterator) {
	if err := it.Close(); err != nil {
		tx.fail(unread(err))
	}
}

// unread and unwritten are faults of the engine before anything was applied.
func unread(err error) error    { return fmt.Errorf("%w: read: %w", ErrUnavailable, err) }
func unwritten(err error) error { return fmt.Errorf("%w: batch: %w", ErrUnavailable, err) }
