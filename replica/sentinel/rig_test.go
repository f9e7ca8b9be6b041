package sentinel_test

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica/resp"
	"github.com/holdfast-dev/holdfast/replica/sentinel"
)

var quiet = slog.New(slog.DiscardHandler)

// Three nodes; the second one does not run a sentinel, so nobody asks whether it is there.
var three = []sentinel.Member{
	{ID: 1, Clients: "10.0.0.1:7001", Voter: true},
	{ID: 2, Clients: "10.0.0.2:7002", Voter: true},
	{ID: 3, Clients: "db3.example:7003", Voter: true},
}

// pipes is a listener whose connections are in memory: with those, time can be made to pass.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// client speaks raw bytes, so that what is compared is what is on the wire.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

// start runs a server on which node 1 leads three nodes, as node 3 knows it.
func start(t testing.TB, cfg sentinel.Config) (*sentinel.Server, *pipes) {
	p := newPipes()
	cfg.Listener, cfg.Self, cfg.Logger = p, 3, quiet
	if cfg.Name == "" {
		cfg.Name = "holdfast"
	}
	s := sentinel.New(cfg)
	s.SetMembers(three)
	s.SetLeader(1, 5)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, p
}

func (p *pipes) dial(t testing.TB) *client {
	mine, theirs := net.Pipe()
	p.conns <- theirs
	t.Cleanup(func() { _ = mine.Close() })
	return newClient(t, mine)
}

// send writes a command whose words are divided by spaces.
func (c *client) send(command string) {
	c.t.Helper()
	var w resp.Writer
	w.Texts(strings.Split(command, " ")...)
	if _, err := c.conn.Write(w.B); err != nil {
		c.t.Fatalf("%s: %v", command, err)
	}
}

// do sends a command and returns its answer with blanks where lines end.
func (c *client) do(command string) string {
	c.t.Helper()
	c.send(command)
	return c.read()
}

func (c *client) read() string {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer, err := value(c.r)
	if err != nil {
		c.t.Fatalf("%q, %v", answer, err)
	}
	return strings.TrimSuffix(strings.ReplaceAll(answer, "\r\n", " "), " ")
}

// ended says whether the server closes the connection, having said nothing more.
func (c *client) ended() bool {
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Second))
	_, err := c.r.ReadByte()
	return errors.Is(err, io.EOF)
}

// value reads one whole value as it came.
func value(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return line, err
	}
	n := 0
	for _, d := range strings.TrimRight(line[1:], "\r\n") {
		n = n*10 + int(d-'0')
	}
	switch {
	case strings.HasPrefix(line[1:], "-1"), strings.ContainsRune("+-:_", rune(line[0])):
		return line, nil
	case line[0] == '$':
		b := make([]byte, n+2)
		_, err := io.ReadFull(r, b)
		return line + string(b), err
	case line[0] == '%':
		n *= 2
	case line[0] != '*' && line[0] != '>':
		return line, errors.New("not a value")
	}
	for range n {
		part, err := value(r)
		line += part
		if err != nil {
			return line, err
		}
	}
	return line, nil
}

func newClient(t testing.TB, c net.Conn) *client { return &client{t, c, bufio.NewReader(c)} }
