package gate

import (
	"errors"
	"github.com/holdfast-dev/holdfast/internal/mutant"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// conn is a client's connection and the engine's for it.
type conn struct {
	g              *Gate
	client, engine net.Conn
	from, back     stream          // how client and engine are read
	raw            syscall.RawConn // of the client, where there is one: for writing without waiting

	mu       sync.Mutex
	room     *sync.Cond // held has become less, or it is over
	held     []byte     // read from the engine, not written to the client
	read     int64      // all bytes that ever were
	released int64      // of which so many may leave
	written  int64      // of which so many have left
	marked   bool       // a round that covers what was read is asked for
	ended    bool       // the engine's stream has ended
	last     bool       // and its end may be passed on
	writing  bool       // a goroutine writes what the client did not take at once
	over     bool
	wg       sync.WaitGroup
}

func newConn(g *Gate, client, engine net.Conn) *conn {
	c := &conn{g: g, client: client, engine: engine}
	c.room = sync.NewCond(&c.mu)
	c.from, c.back = newStream(client), newStream(engine)
	c.raw = rawConn(client)
	return c
}

// run carries both directions and returns when both are done.
func (c *conn) run() error {
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		c.fromEngine()
	}()
	err := c.fromClient()
	if errors.Is(err, io.EOF) {
		// The client says no more, but may listen: the engine answers what it has, then ends.
		err = halfClose(c.engine)
	}
	if err != nil {
		c.abort()
	}
	c.wg.Wait()
	c.abort()
	return nil
}

func halfClose(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// fromClient passes bytes to the engine.
func (c *conn) fromClient() error {
	for {
		b, err := c.from.next()
		if err != nil {
			return err
		}
		if !c.g.pass() {
			c.from.free(b)
			return ErrShut
		}
		_, err = c.engine.Write(*b)
		c.from.free(b)
		if err != nil {
			return err
		}
	}
}

// fromEngine holds what the engine answers.
func (c *conn) fromEngine() {
	for c.awaitRoom() {
		b, err := c.back.next()
		if err != nil {
			break
		}
		c.hold(*b)
		c.back.free(b)
	}
	c.mu.Lock()
	c.ended = true
	mark := !c.marked && !c.over
	c.marked = true
	c.mu.Unlock()
	if mark {
		c.g.mark(c)
	}
	if mutant.GateOff {
		c.release(c.read, true)
	}
	c.mu.Lock()
	for !c.over && (!c.last || len(c.held) > 0) { // the end of the stream waits its turn
		c.room.Wait()
	}
	c.mu.Unlock()
	c.abort()
}

func (c *conn) awaitRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.over && !c.g.mayRead(int64(len(c.held))) {
		c.room.Wait()
	}
	return !c.over
}

func (c *conn) hold(p []byte) {
	c.mu.Lock()
	c.held = append(c.held, p...)
	c.read += int64(len(p))
	upto := c.read
	mark := !c.marked
	c.marked = true
	c.mu.Unlock()
	c.g.held.Add(int64(len(p)))
	if mutant.GateOff {
		c.release(upto, false)
	}
	if mark {
		c.g.mark(c)
	}
}

// span is what a round covers that is asked after this call.
func (c *conn) span() span {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marked = false
	return span{c, c.read, c.ended}
}

// release lets what was read up to upto leave, as much of it as the client takes at once.
func (c *conn) release(upto int64, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released = max(c.released, upto)
	c.last = c.last || last
	if c.over || c.writing {
		return
	}
	if n := c.writable(); n > 0 {
		c.wrote(tryWrite(c.raw, c.held[:n]))
	}
	switch {
	case c.writable() > 0:
		c.writing = true
		c.wg.Add(1)
		go c.write()
	case c.last:
		c.room.Broadcast()
	}
}

// writable needs mu: how much of held may leave.
func (c *conn) writable() int { return int(c.released - c.written) }

// wrote needs mu.
func (c *conn) wrote(n int) {
	if n == 0 {
		return
	}
	c.written += int64(n)
	if n == len(c.held) && cap(c.held) <= keepBuffer {
		c.held = c.held[:0]
	} else if n == len(c.held) {
		c.held = nil
	} else {
		c.held = c.held[n:]
	}
	c.g.held.Add(-int64(n))
	c.room.Broadcast()
}

// keepBuffer is the largest buffer that a connection keeps while nothing is held.
const keepBuffer = 4 << 10

// slow bounds how long a client may take nothing of what is its due.
const slow = 60 * time.Second

// write gives the client what it did not take at once.
func (c *conn) write() {
	defer c.wg.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.over && c.writable() > 0 {
		piece := c.held[:min(c.writable(), 64<<10)]
		c.mu.Unlock()
		_ = c.client.SetWriteDeadline(time.Now().Add(slow))
		n, err := c.client.Write(piece)
		c.mu.Lock()
		c.wrote(n)
		if err != nil {
			c.end()
		}
	}
	c.writing = false
	c.room.Broadcast()
}

// abort ends the connection at once.
func (c *conn) abort() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
}

// end needs mu.
func (c *conn) end() {
	if c.over {
		return
	}
	c.over = true
	c.g.held.Add(-int64(len(c.held)))
	c.room.Broadcast()
	_ = c.engine.Close()
	_ = c.client.Close()
}
