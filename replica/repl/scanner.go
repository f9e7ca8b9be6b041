package repl

import (
	"bytes"
	"fmt"

	"github.com/holdfast-dev/holdfast/replica/resp"
)

// Scanner finds the boundaries in an engine's stream: the places where a command ends and no
// transaction is open. Up to a boundary a stream can be given to another engine, which can then be
// promoted; past it, it could not be. The zero Scanner stands at a boundary.
type Scanner struct {
	args  int64  // arguments that the command still has
	first bool   // the next argument is the command's name
	skip  int64  // bytes that remain of an argument and the line's end after it
	head  []byte // a header or name that has come in part
	name  bool   // head collects the name
	multi bool   // between MULTI and EXEC
}

// The longest header of a command or an argument, and the longest name that matters here.
const (
	maxHeader = 32
	maxName   = len("DISCARD")
)

// Scan takes the next bytes and returns how many of them lie before the last boundary in
// them, or -1 when there is none. After an error the Scanner is of no use.
func (s *Scanner) Scan(p []byte) (safe int, err error) {
	safe = -1
	for i := 0; i < len(p); {
		n, boundary, err := s.step(p[i:])
		if err != nil {
			return safe, err
		}
		i += n
		if boundary {
			safe = i
		}
	}
	return safe, nil
}

// step consumes a piece of p: a header, a name, or payload.
func (s *Scanner) step(p []byte) (n int, boundary bool, err error) {
	switch {
	case s.name:
		return s.readName(p)
	case s.skip > 0:
		n := min(s.skip, int64(len(p)))
		s.skip -= n
		return int(n), s.skip == 0 && s.args == 0 && !s.multi, nil
	}
	line, n, err := s.line(p)
	if line == nil || err != nil {
		return n, false, err
	}
	want := byte('$')
	if s.args == 0 {
		want = '*'
	}
	if line[0] == '\n' && s.args == 0 { // an engine's sign of life between commands
		return n, !s.multi, nil
	}
	value, ok := resp.Header(line, want)
	switch {
	case !ok:
		return 0, false, fmt.Errorf("%w: %.32q in the stream", ErrProtocol, line)
	case s.args == 0:
		if value == 0 {
			return 0, false, fmt.Errorf("%w: an empty command in the stream", ErrProtocol)
		}
		s.args, s.first = value, true
	default:
		s.args--
		s.skip = value + 2
		s.name, s.first = s.first && value <= int64(maxName), false
	}
	return n, false, nil
}

// readName collects a short name to see transactions begin and end.
func (s *Scanner) readName(p []byte) (n int, boundary bool, err error) {
	take := min(int(s.skip), len(p))
	s.head = append(s.head, p[:take]...)
	s.skip -= int64(take)
	if s.skip > 0 {
		return take, false, nil
	}
	switch name := s.head[:len(s.head)-2]; {
	case bytes.EqualFold(name, []byte("MULTI")):
		s.multi = true
	case bytes.EqualFold(name, []byte("EXEC")), bytes.EqualFold(name, []byte("DISCARD")):
		s.multi = false
	}
	s.head, s.name = s.head[:0], false
	return take, s.args == 0 && !s.multi, nil
}

// line gives the next header with its end, which may have begun in earlier bytes; nil while
// it is not whole.
func (s *Scanner) line(p []byte) (line []byte, n int, err error) {
	end := bytes.IndexByte(p[:min(len(p), maxHeader)], '\n')
	if end < 0 || len(s.head) > 0 {
		if n = end + 1; end < 0 {
			n = min(len(p), maxHeader)
		}
		if s.head = append(s.head, p[:n]...); len(s.head) > maxHeader {
			return nil, 0, fmt.Errorf("%w: %.32q in the stream", ErrProtocol, s.head)
		}
		if end < 0 {
			return nil, n, nil
		}
		line, s.head = s.head, s.head[:0]
		return line, n, nil
	}
	return p[:end+1], end + 1, nil
}
