package core

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Entry is what the log carries: a Chunk, a Declaration, or nothing (a leader's first entry).
type Entry interface{ entry() }

// Chunk is a piece of an epoch's stream.
type Chunk struct {
	Epoch uint64
	From  int64 // bytes before it
	Safe  int64 // offset of the last boundary in it; at most From when there is none
	Bytes []byte
}

// Declaration begins an epoch.
type Declaration struct {
	After  uint64 // the epoch that it follows
	Node   uint64
	ReplID string
	Start  int64
}

// Nothing is a leader's first entry in its term.
type Nothing struct{}

func (Chunk) entry()       {}
func (Declaration) entry() {}
func (Nothing) entry()     {}

// The first byte of an entry. What is not listed was written by a newer version.
const (
	kindChunk       = 1
	kindDeclaration = 2
)

// ErrFormat: an entry that this version cannot read.
var ErrFormat = errors.New("replica: unknown or damaged log entry")

// maxReplID is the length of an engine's history id, which is always the same.
const maxReplID = 40

// Encode is the form in which the log carries a chunk.
func (c Chunk) Encode() []byte {
	b := make([]byte, 0, 1+3*binary.MaxVarintLen64+len(c.Bytes))
	b = append(b, kindChunk)
	b = binary.AppendUvarint(b, c.Epoch)
	b = binary.AppendUvarint(b, uint64(c.From))
	b = binary.AppendUvarint(b, uint64(max(c.Safe-c.From, 0)))
	return append(b, c.Bytes...)
}

// Encode is the form in which the log carries a declaration.
func (d Declaration) Encode() []byte {
	b := []byte{kindDeclaration}
	b = binary.AppendUvarint(b, d.After)
	b = binary.AppendUvarint(b, d.Node)
	b = binary.AppendUvarint(b, uint64(d.Start))
	return append(b, d.ReplID...)
}

// Decode reads an entry. A chunk's bytes are not copied.
func Decode(b []byte) (Entry, error) {
	if len(b) == 0 {
		return Nothing{}, nil
	}
	var n [3]uint64
	rest := b[1:]
	for i := range n {
		v, size := binary.Uvarint(rest)
		if size <= 0 || v > 1<<62 && i > 0 && b[0] == kindChunk {
			return nil, ErrFormat
		}
		n[i], rest = v, rest[size:]
	}
	switch b[0] {
	case kindChunk:
		if n[2] > uint64(len(rest)) {
			return nil, ErrFormat
		}
		return Chunk{Epoch: n[0], From: int64(n[1]), Safe: int64(n[1] + n[2]), Bytes: rest}, nil
	case kindDeclaration:
		if len(rest) > maxReplID || n[2] > 1<<62 {
			return nil, ErrFormat
		}
		return Declaration{After: n[0], Node: n[1], Start: int64(n[2]), ReplID: string(rest)}, nil
	}
	return nil, fmt.Errorf("%w: kind %d", ErrFormat, b[0])
}
