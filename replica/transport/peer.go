package transport

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Limits of what waits for one peer.
const (
	maxControl = 4 << 20
	maxData    = 32 << 20
	maxFrame   = 256 << 20 // above the largest message: one entry can be larger than a batch
	writeTime  = 5 * time.Second
	smallest   = 20 * time.Millisecond // pause before the next try to connect
	largest    = 500 * time.Millisecond
)

// peer is where messages for one node go: those that keep leaders alive and that say what was
// received go by a connection of their own, so that they never wait behind entries. A leader's
// appends all go by the other one, also those that only say what is committed: one that came
// before the entries it follows would be refused, and they would be sent again.
type peer struct {
	t             *Transport
	id            uint64
	addr          string
	ctx           context.Context
	close         context.CancelFunc
	control, data *lane

	mu       sync.Mutex
	snapshot bool // one is on its way
}

func newPeer(t *Transport, id uint64, addr string) *peer {
	p := &peer{t: t, id: id, addr: addr}
	p.ctx, p.close = context.WithCancel(t.ctx)
	p.control, p.data = newLane(kindControl, maxControl), newLane(kindData, maxData)
	for _, l := range []*lane{p.control, p.data} {
		t.wg.Add(1)
		go func() {
			defer t.wg.Done()
			p.run(l)
		}()
	}
	return p
}

func (p *peer) send(m *pb.Message) bool {
	l := p.control
	if m.GetType() == pb.MsgApp {
		l = p.data
	}
	return l.put(m)
}

// lane is a bounded queue in front of one connection.
type lane struct {
	kind string
	most int
	wake chan struct{}

	mu    sync.Mutex
	up    bool
	ms    []*pb.Message
	bytes int
}

func newLane(kind string, most int) *lane {
	return &lane{kind: kind, most: most, wake: make(chan struct{}, 1)}
}

// put drops what finds no connection: by the time there is one, it would be old.
func (l *lane) put(m *pb.Message) bool {
	size := proto.Size(m)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up || l.bytes+size > l.most && l.bytes > 0 {
		return false
	}
	l.ms = append(l.ms, m)
	l.bytes += size
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

func (l *lane) take() []*pb.Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	ms := l.ms
	l.ms, l.bytes = nil, 0
	return ms
}

func (l *lane) set(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = up
	l.ms, l.bytes = nil, 0
}

// run keeps one connection to the peer.
func (p *peer) run(l *lane) {
	wait := smallest
	for p.ctx.Err() == nil {
		c, err := p.t.Dial(p.ctx, p.addr, l.kind)
		if err == nil {
			wait = smallest
			l.set(true)
			err = p.write(c, l)
			l.set(false)
			_ = c.Close() // err says why
		}
		if p.ctx.Err() != nil {
			return
		}
		p.t.cfg.Unreachable(p.id)
		p.t.cfg.Logger.Debug("replica: no connection", "peer", p.addr, "kind", l.kind, "error", err)
		if !pause(p.ctx, wait) {
			return
		}
		wait = min(2*wait, largest)
	}
}

func (p *peer) write(c *Conn, l *lane) error {
	stop := context.AfterFunc(p.ctx, func() { _ = c.Close() })
	defer stop()
	gone := make(chan struct{})
	p.t.wg.Add(1)
	go func() { // the other side says nothing; the end of its silence is the end of the connection
		defer p.t.wg.Done()
		defer close(gone)
		_, _ = c.Read(make([]byte, 1))
		_ = c.NetConn().Close()
	}()
	defer func() { _ = c.Close(); <-gone }()
	w := bufio.NewWriterSize(c, 64<<10)
	var buf []byte
	for {
		ms := l.take()
		if len(ms) == 0 {
			select {
			case <-l.wake:
				continue
			case <-gone:
				return errors.New("the connection ended")
			case <-p.ctx.Done():
				return p.ctx.Err()
			}
		}
		if err := c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
			return err
		}
		for _, m := range ms {
			var err error
			if buf, err = writeMessage(w, buf[:0], m); err != nil {
				return err
			}
		}
		if cap(buf) > usualFrame {
			buf = nil
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
}

// writeMessage returns the buffer that it used, for the next one.
func writeMessage(w io.Writer, buf []byte, m *pb.Message) ([]byte, error) {
	buf, err := proto.MarshalOptions{}.MarshalAppend(append(buf, 0, 0, 0, 0), m)
	if err != nil {
		return buf, err
	}
	if len(buf)-4 > maxFrame {
		return buf, fmt.Errorf("%w: a message of %d bytes", ErrProtocol, len(buf))
	}
	binary.BigEndian.PutUint32(buf, uint32(len(buf)-4))
	_, err = w.Write(buf)
	return buf, err
}

// readMessage returns the buffer that it used, for the next one: a message keeps nothing of it.
func readMessage(r io.Reader, buf []byte) (*pb.Message, []byte, error) {
	b, err := readFrame(r, buf, maxFrame)
	if err != nil {
		return nil, nil, err
	}
	m := &pb.Message{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if cap(b) > usualFrame {
		b = nil
	}
	return m, b, nil
}

// receive takes messages until the connection ends. They must come from whom the connection is.
func (t *Transport) receive(c *Conn) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReaderSize(c, 64<<10)
	var buf []byte
	for {
		var m *pb.Message
		var err error
		m, buf, err = readMessage(r, buf)
		if err != nil {
			if !errors.Is(err, io.EOF) && t.ctx.Err() == nil {
				t.cfg.Logger.Debug("replica: connection ended", "peer", c.Peer, "error", err)
			}
			return
		}
		if m.GetFrom() != c.Peer || m.GetTo() != t.cfg.ID {
			t.cfg.Logger.Warn("replica: a message for somebody else", "from", m.GetFrom(), "to", m.GetTo())
			return
		}
		t.cfg.Message(m)
	}
}
