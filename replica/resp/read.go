// Package resp is the engines' protocol where a node speaks it itself: commands that it reads,
// within bounds, and answers that it writes in the version the client chose.
package resp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// ErrProtocol: the bytes are no command, or one beyond the bounds. The connection is of no use
// after it.
var ErrProtocol = errors.New("replica: not a command")

// Bounds of a command: how many words, and how many bytes in each.
type Bounds struct{ Words, Word int64 }

// ReadCommand reads one command: an array of strings, with at least one. Errors: ErrProtocol, and
// those of r; io.EOF only before the first byte.
func ReadCommand(r *bufio.Reader, most Bounds) ([]string, error) {
	n, err := readHeader(r, '*', most.Words)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("%w: an empty one", ErrProtocol)
	}
	words := make([]string, 0, n)
	for range n {
		word, err := readWord(r, most.Word)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		words = append(words, word)
	}
	return words, nil
}

func readWord(r *bufio.Reader, most int64) (string, error) {
	size, err := readHeader(r, '$', most)
	if err != nil {
		return "", err
	}
	b := make([]byte, size+2)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	if string(b[size:]) != "\r\n" {
		return "", fmt.Errorf("%w: a word is longer than it says", ErrProtocol)
	}
	return string(b[:size]), nil
}

func readHeader(r *bufio.Reader, kind byte, most int64) (int64, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return 0, fmt.Errorf("%w: %.32q", ErrProtocol, line)
	case errors.Is(err, io.EOF) && len(line) > 0:
		return 0, io.ErrUnexpectedEOF
	case err != nil:
		return 0, err
	}
	n, ok := Header(line, kind)
	if !ok {
		return 0, fmt.Errorf("%w: %.32q where %q begins a line", ErrProtocol, line, kind)
	}
	if n > most {
		return 0, fmt.Errorf("%w: %d is too much, at most %d", ErrProtocol, n, most)
	}
	return n, nil
}

// Header reads a line like "*12\r\n" or "$12\r\n", with its end.
func Header(line []byte, kind byte) (int64, bool) {
	n := len(line)
	if n < 4 || line[0] != kind || line[n-2] != '\r' || n > 16 {
		return 0, false
	}
	var v int64
	for _, c := range line[1 : n-2] {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int64(c-'0')
	}
	return v, true
}
