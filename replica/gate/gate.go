// Package gate stands between clients and the engine of a leading node. Bytes from clients
// pass; bytes from the engine are held until all that can lie behind them is committed and
// the node is known to lead still. Nothing is parsed on that way, so every command, protocol
// version, pipeline, transaction, subscription and push is covered alike.
//
// The rule: the engine's replication offset, asked for (ROLE) after a reply was read, lies at
// or past every effect that the reply rests on. When that offset is committed, and leadership
// was verified by messages sent after the reply was read, the reply may leave. Many replies
// share one question.
//
// Promised: no byte of a reply leaves earlier; a client that reads slowly, or not at all,
// costs itself and bounded memory. Shut drops what is held: its clients see their connection
// end, and do not know what became of the commands.
package gate

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ErrShut: the gate is shut; nothing was sent to the engine.
var ErrShut = errors.New("replica: this node does not lead")

// Config says what the gate stands between. Zero sizes have the default that is named.
type Config struct {
	Engine   func(ctx context.Context) (net.Conn, error) // a connection of its own for each client
	Probe    func(ctx context.Context) (net.Conn, error) // one that may ask ROLE
	Proposed func() int64                                // end of what the log was given of the engine's stream so far
	Verify   func(done func(ok bool))                    // whether the node leads, by messages sent after the call

	HoldPerConn int64 // bytes held for one client before its engine connection is not read: 1 MiB
	HoldTotal   int64 // for all clients, above which each gets little: 256 MiB
	MaxConns    int   // 10,000
	Logger      *slog.Logger
}

// leastHold is what every client gets, however much others have.
const leastHold = 64 << 10

// Gate is shut until Open. Its methods may be called from everywhere.
type Gate struct {
	cfg  Config
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
	wake chan struct{} // to the prober; one slot

	held    atomic.Int64
	refused atomic.Int64 // clients for whom there was no place

	mu       sync.Mutex
	open     bool
	session  uint64 // counts Opens: what belongs to an earlier one is void
	conns    map[*conn]struct{}
	rounds   rounds
	draining bool
	resume   chan struct{} // closed when draining ends

	dirtyMu sync.Mutex
	dirty   []*conn // have bytes that no round covers
}

// New makes a gate that is shut.
func New(cfg Config) *Gate {
	if cfg.HoldPerConn == 0 {
		cfg.HoldPerConn = 1 << 20
	}
	if cfg.HoldTotal == 0 {
		cfg.HoldTotal = 256 << 20
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 10_000
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	g := &Gate{cfg: cfg, wake: make(chan struct{}, 1), conns: map[*conn]struct{}{}}
	g.ctx, g.stop = context.WithCancel(context.Background())
	g.wg.Add(1)
	go g.probe()
	return g
}

// Open lets clients in. What is committed up to that offset may be read. Clients of a gate that was
// open are cut off: the rounds that they wait for are void.
func (g *Gate) Open(committed int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return
	}
	if g.open {
		g.shut()
	}
	g.session++
	g.open, g.rounds = true, rounds{committed: committed}
}

// Shut closes every connection; what is held never leaves.
func (g *Gate) Shut() {
	g.mu.Lock()
	g.shut()
	g.mu.Unlock()
}

// shut needs mu.
func (g *Gate) shut() {
	g.open = false
	g.rounds = rounds{}
	g.undrain()
	for c := range g.conns {
		c.abort()
	}
}

// Committed: the engine's stream is committed up to offset.
func (g *Gate) Committed(offset int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open {
		g.rounds.commit(offset)
		g.release()
	}
}

// release needs mu. It never blocks: what a client does not take at once is left to a
// goroutine of that client.
func (g *Gate) release() {
	for _, r := range g.rounds.ready() {
		for _, s := range r.spans {
			s.conn.release(s.upto, s.last)
		}
	}
	if id := g.rounds.unproven(); id > 0 {
		g.ask(id)
	}
}

// Stats are for metrics.
type Stats struct {
	Conns  int
	Held   int64 // bytes
	Rounds int   // questions whose answer is not committed or verified yet

	Refused int64 // clients so far for whom there was no place
}

// Stats counts what there is now.
func (g *Gate) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Stats{len(g.conns), g.held.Load(), len(g.rounds.queue), g.refused.Load()}
}

// Close shuts the gate for good. No goroutine is left when it returns.
func (g *Gate) Close() {
	g.stop()
	g.Shut()
	g.wg.Wait()
}

// Serve carries a client's connection until it ends. It owns client. ErrShut when the gate is shut.
func (g *Gate) Serve(client net.Conn) error {
	ctx, cancel := context.WithTimeout(g.ctx, dialTime)
	defer cancel()
	if !g.isOpen() {
		return errors.Join(ErrShut, client.Close())
	}
	engine, err := g.cfg.Engine(ctx)
	if err != nil {
		return errors.Join(err, client.Close())
	}
	c := newConn(g, client, engine)
	if err := g.admit(c); err != nil {
		if errors.Is(err, errFull) {
			g.refused.Add(1)
			_ = client.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = client.Write([]byte("-ERR max number of clients reached\r\n")) // err says more
		}
		return errors.Join(err, client.Close(), engine.Close())
	}
	defer g.forget(c)
	return c.run()
}

// dialTime bounds how long an engine may take to accept a connection.
const dialTime = 5 * time.Second

func (g *Gate) isOpen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// errFull is said in the words that clients know from engines.
var errFull = errors.New("replica: too many clients")

func (g *Gate) admit(c *conn) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.open:
		return ErrShut
	case len(g.conns) >= g.cfg.MaxConns:
		return errFull
	}
	g.conns[c] = struct{}{}
	g.wg.Add(1) // for run
	return nil
}

func (g *Gate) forget(c *conn) {
	g.mu.Lock()
	delete(g.conns, c)
	g.mu.Unlock()
	g.wg.Done()
}

// mark asks for a round that covers what c has read.
func (g *Gate) mark(c *conn) {
	g.dirtyMu.Lock()
	first := len(g.dirty) == 0
	g.dirty = append(g.dirty, c)
	g.dirtyMu.Unlock()
	if first {
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
}

// Drain stops taking commands, waits until every reply that is on its way has left, and shuts
// the gate. When ctx ends before that, it goes on as before and returns ctx's error.
func (g *Gate) Drain(ctx context.Context) error {
	g.mu.Lock()
	if !g.open {
		g.mu.Unlock()
		return ErrShut
	}
	if !g.draining {
		g.draining, g.resume = true, make(chan struct{})
	}
	g.mu.Unlock()
	// The engine reads its connections in turns. When nothing has come for a while, what
	// was sent has been answered, but for commands that block or take long.
	for quiet := 0; quiet < 5; {
		select {
		case <-ctx.Done():
			g.mu.Lock()
			g.undrain()
			g.mu.Unlock()
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
		if g.isQuiet() {
			quiet++
		} else {
			quiet = 0
		}
	}
	g.Shut()
	return nil
}

func (g *Gate) isQuiet() bool {
	g.dirtyMu.Lock()
	dirty := len(g.dirty)
	g.dirtyMu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	return dirty == 0 && len(g.rounds.queue) == 0 && !g.rounds.asking
}

// undrain needs mu.
func (g *Gate) undrain() {
	if g.draining {
		g.draining = false
		close(g.resume)
	}
}

// pass waits while the gate drains, and says whether a client's bytes may go to the engine.
func (g *Gate) pass() bool {
	g.mu.Lock()
	if !g.draining {
		defer g.mu.Unlock()
		return g.open
	}
	resume := g.resume
	g.mu.Unlock()
	<-resume
	return g.isOpen()
}

// mayRead says whether one more piece may be read from the engine for a client that has so
// much held already.
func (g *Gate) mayRead(held int64) bool {
	return held < leastHold || held < g.cfg.HoldPerConn && g.held.Load() < g.cfg.HoldTotal
}
