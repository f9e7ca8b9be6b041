package drill

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// respConn is a client of an engine: enough of RESP2 and RESP3 for the drill.
type respConn struct {
	net.Conn
	r      *bufio.Reader
	pushed func(push []any) // what RESP3 brings unasked
}

// errReply is an answer that says no: the command was not done.
type errReply string

func (e errReply) Error() string { return string(e) }

// commandTime is how long a client waits for an answer.
const commandTime = 3 * time.Second

// maxReply bounds an answer's bytes, or its elements.
const maxReply = 8 << 20

func dialRESP(addr string) (*respConn, error) {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return nil, err
	}
	return &respConn{Conn: c, r: bufio.NewReader(c)}, nil
}

// do sends commands in one write and returns the last one's answer: string, int64, nil or
// []any. An error that is no errReply means that nobody knows what was done.
func (c *respConn) do(commands ...[]string) (answer any, err error) {
	if err := c.SetDeadline(time.Now().Add(commandTime)); err != nil {
		return nil, err
	}
	var b strings.Builder
	for _, words := range commands {
		fmt.Fprintf(&b, "*%d\r\n", len(words))
		for _, w := range words {
			fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
		}
	}
	if _, err := io.WriteString(c, b.String()); err != nil {
		return nil, err
	}
	for range commands {
		if answer, err = c.answer(); err != nil {
			var no errReply
			if !errors.As(err, &no) {
				return nil, err
			}
		}
	}
	return answer, err
}

func (c *respConn) answer() (any, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 {
		return nil, fmt.Errorf("answer %q", line)
	}
	text := line[1 : len(line)-2]
	switch line[0] {
	case '+':
		return text, nil
	case '-':
		return nil, errReply(text)
	case '_':
		return nil, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return nil, fmt.Errorf("answer %q", line)
	case line[0] == ':':
		return n, nil
	case n < 0:
		return nil, nil
	case n > maxReply:
		return nil, fmt.Errorf("answer %q", line)
	case line[0] == '$':
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return nil, err
		}
		return string(b[:n]), nil
	}
	if line[0] == '%' {
		n *= 2
	}
	all := make([]any, 0, min(n, 1024))
	for range n {
		one, err := c.answer()
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	if line[0] == '>' && c.pushed != nil {
		c.pushed(all)
		return c.answer()
	}
	return all, nil
}
