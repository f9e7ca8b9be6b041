package store

import (
	"encoding/binary"
	"fmt"
)

// The format on disk, version 2. Integers are big-endian.
//
//	00 "format"                          → "2"
//	00 "clock"                           → 8 bytes: the clock will not be below this, µs
//	01 key                               → record: type, deadline, place in 05 if that is another, and
//	                                       a string's value or a count
//	02 len(key):4 key field              → a hash's field
//	03 len(key):4 key member             → a member's score:8
//	04 len(key):4 key score:8 member     → nothing: members in the order of their scores
//	05 deadline:8 key                    → nothing: keys that may end at that time, and not before
//
// A key that has a deadline has one place in 05, at the deadline or before it: a key that is
// prolonged again and again, as those of limiters and leases are, is written alone, and the
// sweeper moves its place when it comes by. In version 1 the place was always the deadline; such
// a store becomes one of version 2 when it is opened.
const (
	formatVersion    = "2"
	formatDeadlineAt = "1"

	spaceSystem   = 0x00
	spaceRecord   = 0x01
	spaceField    = 0x02
	spaceScore    = 0x03
	spaceOrder    = 0x04
	spaceDeadline = 0x05
)

var (
	formatKey = append([]byte{spaceSystem}, "format"...)
	clockKey  = append([]byte{spaceSystem}, "clock"...)
)

func recordKey(key string) []byte { return append([]byte{spaceRecord}, key...) }

// appendElement is the place of an element of key; with an empty element, where they begin.
func appendElement(b []byte, space byte, key, element string) []byte {
	b = append(b, space)
	b = binary.BigEndian.AppendUint32(b, uint32(len(key)))
	b = append(b, key...)
	return append(b, element...)
}

func appendOrder(b []byte, key string, score int64, member string) []byte {
	b = appendElement(b, spaceOrder, key, "")
	b = appendScore(b, score)
	return append(b, member...)
}

func elementKey(space byte, key, element string) []byte {
	return appendElement(nil, space, key, element)
}

func orderKey(key string, score int64, member string) []byte {
	return appendOrder(nil, key, score, member)
}

func deadlineKey(ms int64, key string) []byte { return appendDeadline(nil, ms, key) }

func appendDeadline(b []byte, ms int64, key string) []byte {
	b = append(b, spaceDeadline)
	b = binary.BigEndian.AppendUint64(b, uint64(ms))
	return append(b, key...)
}

// appendScore makes bytes that sort as the scores do: the sign bit is turned over.
func appendScore(b []byte, score int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(score)^1<<63)
}

func parseScore(s string) (int64, error) {
	if len(s) != 8 {
		return 0, fmt.Errorf("%w: a score of %d bytes", ErrCorrupt, len(s))
	}
	return int64(binary.BigEndian.Uint64([]byte(s)) ^ 1<<63), nil
}

// after is the first key behind all that begin with prefix. Prefixes here begin with a small
// byte, so there is one.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

const (
	typeNone   = 0
	typeString = 's'
	typeHash   = 'h'
	typeZset   = 'z'

	// typeMoved is added to the type of a record whose place in the order of deadlines is not its
	// deadline.
	typeMoved = 0x80
)

// record is what stands under a key itself.
type record struct {
	typ      byte
	deadline int64  // ms, 0 for none
	place    int64  // in the order of deadlines, ms, up to the deadline; 0 for none
	value    string // of a string
	count    int64  // of fields or members
}

func (r record) append(b []byte) []byte {
	if r.place == r.deadline {
		b = append(b, r.typ)
		b = binary.BigEndian.AppendUint64(b, uint64(r.deadline))
	} else {
		b = append(b, r.typ|typeMoved)
		b = binary.BigEndian.AppendUint64(b, uint64(r.deadline))
		b = binary.BigEndian.AppendUint64(b, uint64(r.place))
	}
	if r.typ == typeString {
		return append(b, r.value...)
	}
	return binary.BigEndian.AppendUint64(b, uint64(r.count))
}

// decodeRecord trusts nothing: what it refuses is ErrCorrupt.
func decodeRecord(s string) (record, error) {
	if len(s) < 9 {
		return record{}, fmt.Errorf("%w: a record of %d bytes", ErrCorrupt, len(s))
	}
	r := record{typ: s[0] &^ typeMoved, deadline: int64(binary.BigEndian.Uint64([]byte(s[1:9])))}
	r.place = r.deadline
	rest := s[9:]
	if s[0] != r.typ {
		if len(rest) < 8 {
			return record{}, fmt.Errorf("%w: a record of %d bytes", ErrCorrupt, len(s))
		}
		r.place, rest = int64(binary.BigEndian.Uint64([]byte(rest[:8]))), rest[8:]
		if r.place <= 0 || r.place >= r.deadline {
			return record{}, fmt.Errorf("%w: a place at %d for a deadline at %d", ErrCorrupt, r.place, r.deadline)
		}
	}
	switch {
	case r.deadline < 0:
		return record{}, fmt.Errorf("%w: a negative deadline", ErrCorrupt)
	case r.typ == typeString:
		r.value = rest
	case r.typ == typeHash || r.typ == typeZset:
		if len(rest) != 8 {
			return record{}, fmt.Errorf("%w: a count of %d bytes", ErrCorrupt, len(rest))
		}
		if r.count = int64(binary.BigEndian.Uint64([]byte(rest))); r.count <= 0 {
			return record{}, fmt.Errorf("%w: a count of %d", ErrCorrupt, r.count)
		}
	default:
		return record{}, fmt.Errorf("%w: type %#x", ErrCorrupt, r.typ)
	}
	return r, nil
}
