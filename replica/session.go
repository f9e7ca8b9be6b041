package replica

import (
	"bytes"
	"context"
	"errors"
	"github.com/holdfast-dev/holdfast/internal/mutant"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dev/holdfast/replica/core"
	"github.com/holdfast-dev/holdfast/replica/engine"
	"github.com/holdfast-dev/holdfast/replica/repl"
)

// session is the time in which this node's engine makes the stream: it is attached to it, and
// what it says goes into the log.
type session struct {
	n     *Node
	term  uint64
	epoch uint64
	at    *repl.Attachment
	given atomic.Int64 // end of what the log was given

	ctx   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup
	acks  chan int64    // one slot: the newest committed offset
	asks  atomic.Int64  // the end of what had the engine's wish for an acknowledgement in it; 0: none
	hurry chan struct{} // one slot: that is committed

	watched atomic.Pointer[passage] // one piece at a time is timed on its way into the log

	opened bool // the gate was, for this session; under the node's mu
}

// begin attaches to the engine that was promoted, declares the epoch, and passes the stream on.
func (n *Node) begin(ctx context.Context, e *engine.Engine, term uint64, d core.Declaration) (*session, error) {
	conn, err := e.Admin(ctx)
	if err != nil {
		return nil, err
	}
	at, err := repl.Attach(ctx, conn, repl.Position{ReplID: d.ReplID, Offset: d.Start})
	if err != nil {
		return nil, err
	}
	s := &session{n: n, term: term, epoch: d.After + 1, at: at, acks: make(chan int64, 1), hurry: make(chan struct{}, 1)}
	s.given.Store(d.Start)
	s.ctx, s.stop = context.WithCancel(n.ctx)
	if err := n.cons.Propose(ctx, term, d.Encode()); err != nil {
		return nil, errors.Join(err, at.Close())
	}
	s.wg.Add(2)
	go s.pass(e)
	go s.acknowledge(at.Ack)
	return s, nil
}

// end stops what was begun. What the log was given stays given.
func (s *session) end() {
	s.stop()
	_ = s.at.Close() // there is nothing to lose
	s.wg.Wait()
}

// maxChunk is how much of the stream one entry takes.
const maxChunk = 256 << 10

// pass gives the stream to the log as it comes: what has arrived while the last piece was taken is the
// next one.
func (s *session) pass(e *engine.Engine) {
	defer s.wg.Done()
	buf := make([]byte, maxChunk)
	var scanner repl.Scanner
	for {
		from := s.at.Position().Offset
		k, err := s.at.Read(buf)
		if err != nil {
			s.lost(e, err)
			return
		}
		safe, err := scanner.Scan(buf[:k])
		if err != nil {
			s.lost(e, err)
			return
		}
		c := core.Chunk{Epoch: s.epoch, From: from, Safe: from + int64(max(safe, 0)), Bytes: buf[:k]}
		entry := c.Encode()
		if bytes.Contains(buf[:k], getAck) {
			s.asks.Store(from + int64(k))
		}
		s.propose(from, from+int64(k), entry)
		if s.ctx.Err() != nil {
			return
		}
	}
}

// propose says what is on its way before it is: the gate takes nothing for proven that could
// have been given to the log earlier.
func (s *session) propose(from, end int64, entry []byte) {
	s.given.Store(end)
	if s.watched.Load() == nil {
		s.watched.Store(&passage{end, time.Now()})
	}
	s.tell(end)
	if err := s.n.cons.Propose(s.ctx, s.term, entry); err != nil {
		s.tell(from) // the log did not take it: nobody has to wait for it
		s.stop()
		return
	}
	if mutant.Early { // what this node alone has proposed is taken for committed
		s.n.gate.Committed(end)
	}
}

func (s *session) tell(proposed int64) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	s.n.core.Proposed(s.term, proposed)
}

// passage is a piece of the stream between the engine and the log.
type passage struct {
	end   int64
	since time.Time
}

// lost: the engine's stream broke. What it did after that nobody knows: it starts anew, empty.
func (s *session) lost(e *engine.Engine, err error) {
	if s.ctx.Err() != nil {
		return
	}
	s.n.log.Warn("the engine's stream broke; it is started anew", "error", err)
	s.n.gate.Shut()
	_ = e.Stop() // whose end is noticed
}

// getAck is in the stream when a client waits (WAIT) for what had not been acknowledged.
var getAck = []byte("GETACK")

// ackPace is how often the engine is told what is committed when nobody waits for it.
const ackPace = 5 * time.Millisecond

// committed tells the engine, whose WAIT counts on it, what is committed. It does not wait.
func (s *session) committed(offset int64) {
	if p := s.watched.Load(); p != nil && p.end <= offset {
		s.n.stats.commit.Observe(time.Since(p.since).Seconds())
		s.watched.Store(nil)
	}
	if asks := s.asks.Load(); asks > 0 && offset >= asks && s.asks.CompareAndSwap(asks, 0) {
		defer func() {
			select {
			case s.hurry <- struct{}{}:
			default:
			}
		}()
	}
	select {
	case <-s.acks:
	default:
	}
	select {
	case s.acks <- offset:
	default:
	}
}

// acknowledge tells the engine.
func (s *session) acknowledge(ack func(offset int64) error) {
	defer s.wg.Done()
	for {
		select {
		case <-s.ctx.Done():
			return
		case offset := <-s.acks:
			_ = ack(offset) // a broken stream shows at Read
		}
		select {
		case <-s.ctx.Done():
		case <-s.hurry:
		case <-time.After(ackPace):
		}
	}
}

// proposed is what the gate compares with.
func (n *Node) proposed() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.session == nil {
		return 1 << 62 // nothing is proven
	}
	return n.session.given.Load()
}

// verify is about the session's term: what the engine said in it must not be confirmed by a later one.
func (n *Node) verify(done func(bool)) {
	n.mu.Lock()
	s := n.session
	n.mu.Unlock()
	if s == nil {
		done(false)
		return
	}
	n.cons.Verify(s.term, done)
}
