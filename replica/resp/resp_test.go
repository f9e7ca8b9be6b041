package resp_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/replica/resp"
)

var bounds = resp.Bounds{Words: 8, Word: 64}

func encode(words []string) []byte {
	w := resp.Writer{}
	w.Texts(words...)
	return w.B
}

func TestReadCommand(t *testing.T) {
	for _, c := range []struct {
		in, want string
		err      error
	}{
		{in: "*1\r\n$4\r\nPING\r\n", want: `["PING"]`},
		{in: "*2\r\n$4\r\nECHO\r\n$2\r\n\r\n\r\n", want: `["ECHO" "\r\n"]`},
		{in: "*2\r\n$0\r\n\r\n$1\r\nx\r\n", want: `["" "x"]`},
		{in: "", err: io.EOF},
		{in: "*", err: io.ErrUnexpectedEOF},
		{in: "*1\r\n", err: io.ErrUnexpectedEOF},
		{in: "*1\r\n$4\r\nPI", err: io.ErrUnexpectedEOF},
		{in: "*2\r\n$4\r\nPING\r\n", err: io.ErrUnexpectedEOF},
		{in: "*0\r\n", err: resp.ErrProtocol},
		{in: "*-1\r\n", err: resp.ErrProtocol},
		{in: "PING\r\n", err: resp.ErrProtocol},
		{in: "GET / HTTP/1.1\r\nHost: x\r\n\r\n", err: resp.ErrProtocol},
		{in: "*1\n$4\nPING\n", err: resp.ErrProtocol},
		{in: "*9\r\n", err: resp.ErrProtocol},
		{in: "*999999999999\r\n", err: resp.ErrProtocol},
		{in: "*99999999999999999999999\r\n", err: resp.ErrProtocol},
		{in: "*1\r\n$65\r\n", err: resp.ErrProtocol},
		{in: "*1\r\n$-1\r\n", err: resp.ErrProtocol},
		{in: "*1\r\n:1\r\n", err: resp.ErrProtocol},
		{in: "*1\r\n$4\r\nPINGS\r\n", err: resp.ErrProtocol},
		{in: strings.Repeat("x", 100_000), err: resp.ErrProtocol},
	} {
		for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in))} {
			words, err := resp.ReadCommand(bufio.NewReaderSize(r, 64), bounds)
			if !errors.Is(err, c.err) || err == nil && fmt.Sprintf("%q", words) != c.want {
				t.Errorf("%.40q: %q, %v", c.in, words, err)
			}
		}
	}
}

// What is written is what is read, however it is cut.
func TestCommandsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOf(rapid.SliceOfN(rapid.StringN(0, 16, 64), 1, 8)).Draw(t, "commands")
		var b []byte
		for _, words := range all {
			b = append(b, encode(words)...)
		}
		r := bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(b)), 64)
		for _, want := range all {
			words, err := resp.ReadCommand(r, bounds)
			if err != nil || !slices.Equal(words, want) {
				t.Fatalf("%q, %v for %q", words, err, want)
			}
		}
		if _, err := resp.ReadCommand(r, bounds); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	})
}

func FuzzReadCommand(f *testing.F) {
	for _, s := range []string{"*1\r\n$4\r\nPING\r\n", "*0\r\n", "PING\r\n", "*2\r\n$1\r\na\r\n$1\r\nbc\r\n", "*1\r\n$64\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		words, err := resp.ReadCommand(bufio.NewReaderSize(bytes.NewReader(in), 64), bounds)
		if err != nil {
			if words != nil {
				t.Fatalf("%q beside %v", words, err)
			}
			return
		}
		if len(words) == 0 || int64(len(words)) > bounds.Words {
			t.Fatalf("%d words", len(words))
		}
		for _, w := range words {
			if int64(len(w)) > bounds.Word {
				t.Fatalf("a word of %d bytes", len(w))
			}
		}
		// Numbers may be written with zeros before them; otherwise there is one form.
		again, err := resp.ReadCommand(bufio.NewReader(bytes.NewReader(encode(words))), bounds)
		if err != nil || !slices.Equal(again, words) {
			t.Fatalf("%q came back as %q, %v", words, again, err)
		}
	})
}

func TestWriter(t *testing.T) {
	write := func(w *resp.Writer) string {
		w.Simple("OK")
		w.Error("ERR a\r\nb")
		w.Int(-3)
		w.Text("x\r\n")
		w.Null()
		w.NullArray()
		w.Map(1)
		w.Push(2)
		w.Texts("a", "")
		return string(w.B)
	}
	if got, want := write(&resp.Writer{}), "+OK\r\n-ERR a  b\r\n:-3\r\n$3\r\nx\r\n\r\n$-1\r\n*-1\r\n*2\r\n*2\r\n*2\r\n$1\r\na\r\n$0\r\n\r\n"; got != want {
		t.Errorf("%q", got)
	}
	if got, want := write(&resp.Writer{V3: true}), "+OK\r\n-ERR a  b\r\n:-3\r\n$3\r\nx\r\n\r\n_\r\n_\r\n%1\r\n>2\r\n*2\r\n$1\r\na\r\n$0\r\n\r\n"; got != want {
		t.Errorf("%q", got)
	}
}
