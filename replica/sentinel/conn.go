package sentinel

import (
	"bufio"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/replica/resp"
)

// What a connection may cost.
const (
	firstWithin   = 10 * time.Second // until a new one says something
	commandWithin = 10 * time.Second // until a command that has begun is whole
	idleAtMost    = 10 * time.Minute // without a command, unless it has subscribed
	writeWithin   = 5 * time.Second  // for an answer, or a message
	maxWaiting    = 16               // messages that a subscriber has not taken
	maxChannels   = 32               // that one subscribes to, with patterns
	readBuffer    = 512
)

var bounds = resp.Bounds{Words: 32, Word: 4 << 10}

// conn is a client's connection.
type conn struct {
	s    *Server
	id   int64
	raw  net.Conn
	r    *bufio.Reader
	name string // as the client calls it
	quit bool

	mu sync.Mutex // writing, and what version is written
	v3 bool

	// What it has subscribed to, and the way there: under the server's mu, changed by the
	// connection itself alone.
	channels, patterns []string
	out                chan message // nil before it has subscribed
	done               chan struct{}
	writer             sync.WaitGroup
}

// message is what a subscriber is told.
type message struct{ pattern, channel, text string }

func newConn(s *Server, raw net.Conn, id int64) *conn {
	return &conn{s: s, id: id, raw: raw, r: bufio.NewReaderSize(raw, readBuffer), done: make(chan struct{})}
}

func (c *conn) hangUp() { _ = c.raw.Close() }

// serve answers commands until the client has had enough or has broken the rules.
func (c *conn) serve() {
	defer func() {
		c.hangUp()
		close(c.done)
		c.writer.Wait()
	}()
	for wait := firstWithin; !c.quit; {
		words, err := c.next(wait)
		if errors.Is(err, resp.ErrProtocol) {
			_ = c.reply(func(w *resp.Writer) { // it is given up anyway
				w.Error("ERR Protocol error: " + strings.TrimPrefix(err.Error(), "replica: "))
			})
		}
		if err != nil || c.answer(words) != nil {
			return
		}
		if wait = idleAtMost; c.subscriptions() > 0 {
			wait = 0 // whoever listens may be silent; that it is alive the system asks
		}
	}
}

// next reads a command that begins within wait; 0 is without end.
func (c *conn) next(wait time.Duration) ([]string, error) {
	var until time.Time
	if wait > 0 {
		until = time.Now().Add(wait)
	}
	if err := c.raw.SetReadDeadline(until); err != nil {
		return nil, err
	}
	if _, err := c.r.Peek(1); err != nil {
		return nil, err
	}
	if err := c.raw.SetReadDeadline(time.Now().Add(commandWithin)); err != nil {
		return nil, err
	}
	return resp.ReadCommand(c.r, bounds)
}

// reply writes what put has put together. Nothing else is written meanwhile.
func (c *conn) reply(put func(w *resp.Writer)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := resp.Writer{V3: c.v3}
	put(&w)
	if err := c.raw.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return err
	}
	_, err := c.raw.Write(w.B)
	return err
}

func (c *conn) subscriptions() int {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return len(c.channels) + len(c.patterns)
}
