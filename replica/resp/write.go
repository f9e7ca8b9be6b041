package resp

import (
	"strconv"
	"strings"
)

// Writer collects an answer. The zero Writer writes the protocol's second version.
type Writer struct {
	V3 bool // the third version: maps, pushes, and a null of its own
	B  []byte
}

// Simple is a short text of one line.
func (w *Writer) Simple(s string) { w.line('+', oneLine(s)) }

// Error begins with its code in capitals.
func (w *Writer) Error(s string) { w.line('-', oneLine(s)) }

// Int is a whole number.
func (w *Writer) Int(n int64) { w.line(':', strconv.FormatInt(n, 10)) }

// Text is a string of any bytes.
func (w *Writer) Text(s string) {
	w.line('$', strconv.Itoa(len(s)))
	w.B = append(append(w.B, s...), "\r\n"...)
}

// Texts is an array of strings.
func (w *Writer) Texts(all ...string) {
	w.Array(len(all))
	for _, s := range all {
		w.Text(s)
	}
}

// Null is nothing where a string could be.
func (w *Writer) Null() {
	if w.V3 {
		w.line('_', "")
		return
	}
	w.line('$', "-1")
}

// NullArray is nothing where an array could be.
func (w *Writer) NullArray() {
	if w.V3 {
		w.line('_', "")
		return
	}
	w.line('*', "-1")
}

// Array is followed by its n values.
func (w *Writer) Array(n int) { w.line('*', strconv.Itoa(n)) }

// Map is followed by n pairs. In the second version they are one flat array.
func (w *Writer) Map(n int) {
	if w.V3 {
		w.line('%', strconv.Itoa(n))
		return
	}
	w.Array(2 * n)
}

// Push is followed by n values that nobody asked for; in the second version an array.
func (w *Writer) Push(n int) {
	if w.V3 {
		w.line('>', strconv.Itoa(n))
		return
	}
	w.Array(n)
}

func (w *Writer) line(kind byte, s string) {
	w.B = append(append(append(w.B, kind), s...), "\r\n"...)
}

// oneLine: what a client sent may be quoted in an error, and must not end the line.
func oneLine(s string) string {
	return strings.NewReplacer("\r", " ", "\n", " ").Replace(s)
}
