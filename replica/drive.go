package replica

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"time"

	"github.com/holdfast-dev/holdfast/replica/consensus"
	"github.com/holdfast-dev/holdfast/replica/core"
	"github.com/holdfast-dev/holdfast/replica/engine"
)

// stepTime bounds one try to bring the engine further; it is tried again until something else
// has to be done.
const stepTime = 2 * time.Second

// firstPatience is what a new leader's engine gets to consume what is committed.
const firstPatience = 200 * time.Millisecond

// drive brings the engine to where the core wants it, one step after the other.
func (n *Node) drive() {
	var last core.Step
	for n.ctx.Err() == nil {
		n.mu.Lock()
		step, moved := n.core.Next(), n.moved
		n.mu.Unlock()
		if step != last {
			n.stats.steps.WithLabelValues(step.Do.String()).Inc()
			last = step
		}
		ctx, cancel := context.WithTimeout(n.ctx, stepTime)
		err := n.do(ctx, step, moved)
		cancel()
		if err != nil && n.ctx.Err() == nil {
			n.log.Warn("step failed; it is tried again", "step", step.String(), "error", err)
			n.rest(100*time.Millisecond, nil)
		}
	}
}

// rest waits until something has changed, or for d.
func (n *Node) rest(d time.Duration, moved <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-n.ctx.Done():
	case <-moved:
	case <-t.C:
	}
}

// told tells the core something, under mu, and wakes who waits.
func (n *Node) told(what func(c *core.Core)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	what(n.core)
	n.changed()
}

func (n *Node) do(ctx context.Context, step core.Step, moved <-chan struct{}) error {
	e := n.currentEngine()
	switch step.Do {
	case core.Start:
		n.endSession()
		n.handOn("the engine has to start") // others have all that is committed at hand; this engine would load it first
		return n.restartEngine()
	case core.Follow:
		n.endSession()
		return n.follow(ctx, e)
	case core.Consume:
		return n.consume(ctx, e, step.Offset, moved)
	case core.Promote:
		replid, offset, err := e.Promote(ctx)
		if err != nil {
			n.told(func(c *core.Core) { c.Unsure() })
			return err
		}
		n.told(func(c *core.Core) { c.Promoted(replid, offset) })
		return nil
	case core.Declare:
		return n.declare(ctx, e, step, moved)
	case core.Lead:
		n.lead(step)
	}
	n.rest(time.Second, moved)
	return nil
}

func (n *Node) currentEngine() *engine.Engine {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.engine
}

func (n *Node) startEngine(ctx context.Context) (*engine.Engine, error) {
	return engine.Start(ctx, engine.Config{Path: n.cfg.Engine, Dir: filepath.Join(n.cfg.Dir, "engine"), Password: n.cfg.Password, Logger: n.log})
}

// restartEngine starts an engine and has its end noticed.
func (n *Node) restartEngine() error {
	if e := n.currentEngine(); e != nil {
		if err := e.Stop(); err != nil {
			return err
		}
	}
	e, err := n.startEngine(n.ctx)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.engine = e
	n.core.EngineStarted()
	n.changed()
	n.mu.Unlock()
	n.stats.engines.Inc()
	n.log.Info("the engine runs", "pid", e.Pid())
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		select {
		case <-n.ctx.Done():
			return
		case <-e.Exited():
		}
		n.log.Warn("the engine ended", "last_words", e.LastWords())
		n.gate.Shut()
		n.told(func(c *core.Core) {
			if n.engine == e {
				c.EngineDown()
			}
		})
	}()
	return nil
}

func (n *Node) endSession() {
	n.gate.Shut()
	n.mu.Lock()
	s := n.session
	n.session = nil
	n.mu.Unlock()
	if s != nil {
		s.end()
	}
}

func (n *Node) follow(ctx context.Context, e *engine.Engine) error {
	if err := e.Follow(ctx, n.feed.Port(), feedUser, n.feedPassword); err != nil {
		return err
	}
	n.told(func(c *core.Core) { c.EngineFollows() })
	return nil
}

// consume asks the engine how far it is. One that does not come there soon has more to do than to
// take the last bytes: leadership goes to a node whose engine may be there, and each time that this is
// repeated it gets longer.
func (n *Node) consume(ctx context.Context, e *engine.Engine, want int64, moved <-chan struct{}) error {
	n.patience = longer(n.patience)
	ctx, cancel := context.WithTimeout(ctx, n.patience)
	defer cancel()
	for ctx.Err() == nil {
		r, err := e.Role(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		if !r.Master && r.Link == "connected" && r.Offset == want {
			n.patience = 0
			n.told(func(c *core.Core) { c.Consumed(r.Offset) })
			return nil
		}
		select {
		case <-moved:
			return nil
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
	n.log.Info("the engine is not there yet", "offset", want)
	n.handOn("the engine is not there yet")
	return nil
}

func longer(patience time.Duration) time.Duration {
	return min(max(2*patience, firstPatience), stepTime)
}

// handOn gives leadership to a node that is up to date, when this one's engine needs long.
func (n *Node) handOn(why string) {
	if !n.cons.State().Leads {
		return
	}
	to, ok := n.successor(n.ctx)
	if !ok {
		return
	}
	n.sayHandOn(to, why)
	ctx, cancel := context.WithTimeout(n.ctx, stepTime)
	defer cancel()
	if err := n.cons.Transfer(ctx, to); err != nil {
		n.log.Info("leadership could not be handed on", "error", err)
	}
}

// declare begins a session for the promoted engine, once; then the log has the word.
func (n *Node) declare(ctx context.Context, e *engine.Engine, step core.Step, moved <-chan struct{}) error {
	n.mu.Lock()
	running := n.session
	n.mu.Unlock()
	if running == nil {
		s, err := n.begin(ctx, e, step.Term, step.Decl)
		if errors.Is(err, consensus.ErrNotLeader) {
			n.rest(50*time.Millisecond, moved)
			return nil
		}
		if err != nil {
			// The engine is promoted and nobody takes down what it does: it starts anew.
			return errors.Join(err, e.Stop())
		}
		n.mu.Lock()
		n.session = s
		n.changed() // the epoch may be there already
		n.mu.Unlock()
		return nil
	}
	n.rest(time.Second, moved)
	return nil
}

// lead opens the gate, once in a session.
func (n *Node) lead(step core.Step) {
	n.mu.Lock()
	s, safe := n.session, n.core.State().Safe
	current := n.core.Next() == step
	open := s != nil && !s.opened && current
	if open {
		s.opened = true
		n.gate.Open(safe) // under mu: nothing that shuts it can come between
	}
	n.mu.Unlock()
	if open {
		n.log.Info("this node leads", "epoch", step.Epoch, "offset", safe, "term", step.Term)
	}
}

// blind is how long a node knows of no leader until it cuts off the clients that it passes on: it may find
// the same one again.
const blind = 500 * time.Millisecond

// watch follows leadership. The gate shuts before anything else is thought of.
func (n *Node) watch() {
	var led uint64 // where clients are passed on to
	var lost <-chan time.Time
	for {
		s, changed := n.cons.Changed()
		n.mu.Lock()
		before := n.leader
		n.leader = s.Leader
		n.tellLeader(s.Term)
		n.core.Leadership(s.Term, s.Leads)
		leads := n.core.Next().Do == core.Lead
		name := n.nameOf(s.Leader)
		if !leads {
			n.gate.Shut()
		}
		n.changed()
		n.mu.Unlock()
		if before != s.Leader {
			if s.Leader != 0 {
				n.stats.leaders.Inc()
			}
			n.log.Info("leader", "term", s.Term, "leader", name, "self", s.Leads)
			switch lost = nil; s.Leader {
			case 0:
				lost = time.After(blind)
			case led:
			default:
				led = s.Leader
				n.closeTunnels()
			}
		}
		select {
		case <-changed:
		case <-lost:
			led, lost = 0, nil
			n.closeTunnels()
		case <-n.ctx.Done():
			return
		case <-n.cons.Stopped():
			n.gate.Shut()
			return
		}
	}
}

func (n *Node) clientConn(ctx context.Context) (net.Conn, error) {
	if e := n.currentEngine(); e != nil {
		return e.Client(ctx)
	}
	return nil, engine.ErrGone
}

func (n *Node) adminConn(ctx context.Context) (net.Conn, error) {
	if e := n.currentEngine(); e != nil {
		return e.Admin(ctx)
	}
	return nil, engine.ErrGone
}
