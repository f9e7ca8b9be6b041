package core

import "fmt"

// Core is one node's view. Its methods are told what happened; Next says what follows.
// It is not safe for concurrent use.
type Core struct {
	self  uint64
	state State

	term    uint64
	leads   bool
	applied uint64 // the newest term of an entry; the word of who leads may come after it

	engine   mode
	replid   string // what the engine has called its history since it was promoted
	consumed int64  // how far the engine has come while it follows
	proposed int64  // end of what this node gave to the log in its epoch
}

// mode is what the node's own engine is.
type mode int

const (
	down     mode = iota // not running, or running empty and of no use yet
	stray                // running, and what it holds may be rolled back
	follows              // told to follow this node's feed
	promoted             // makes a stream of its own
)

// New is the view of a node that has applied nothing and has no engine.
func New(self uint64) *Core { return &Core{self: self} }

// Do is what the node's engine has to be brought to next.
type Do int

const (
	Start   Do = iota // run an engine
	Follow            // shut the gate, make the engine follow the feed
	Rest              // follow, and nothing else
	Consume           // leading: wait until the engine has consumed Offset
	Settle            // leading: wait until the log has applied what was proposed
	Promote           // leading: make the engine a master
	Declare           // leading: attach to the engine at Offset and propose Epoch
	Lead              // the gate is open
)

func (d Do) String() string {
	return [...]string{"start", "follow", "rest", "consume", "settle", "promote", "declare", "lead"}[d]
}

// Step is what follows. Two equal steps are the same step.
type Step struct {
	Do     Do
	Term   uint64
	Offset int64       // Consume, Declare, Lead
	Epoch  uint64      // Lead
	Decl   Declaration // Declare
}

func (s Step) String() string {
	switch s.Do {
	case Consume, Promote:
		return fmt.Sprintf("%s %d", s.Do, s.Offset)
	case Declare:
		return fmt.Sprintf("declare epoch %d from %d", s.Decl.After+1, s.Decl.Start)
	case Lead:
		return fmt.Sprintf("lead epoch %d", s.Epoch)
	}
	return s.Do.String()
}

// Next is what follows from all that was told.
func (c *Core) Next() Step {
	switch {
	case c.engine == down:
		return Step{Do: Start}
	case c.engine == stray:
		return Step{Do: Follow}
	case !c.barrier():
		return Step{Do: Rest, Term: c.term}
	case c.engine == follows:
		return c.towardsPromotion()
	}
	at := c.state.Current()
	if at.Node == c.self && at.ReplID == c.replid {
		return Step{Do: Lead, Term: c.term, Epoch: at.Number, Offset: at.Start}
	}
	return Step{Do: Declare, Term: c.term, Offset: c.state.Safe,
		Decl: Declaration{After: at.Number, Node: c.self, ReplID: c.replid, Start: c.state.Safe}}
}

func (c *Core) towardsPromotion() Step {
	if c.proposed > c.state.Offset { // what this node proposed in this term is still on its way
		return Step{Do: Settle, Term: c.term}
	}
	if c.consumed != c.state.Safe {
		return Step{Do: Consume, Term: c.term, Offset: c.state.Safe}
	}
	return Step{Do: Promote, Term: c.term, Offset: c.state.Safe}
}

// State is what this node has applied. The caller must not change it.
func (c *Core) State() *State { return &c.state }

// Restored: a snapshot took the place of everything that was applied.
func (c *Core) Restored(s State) {
	c.state = s.Clone()
	if c.engine == promoted {
		c.engine = stray
	}
}

// Applied: the next entry of the log, of that term. It says whether the entry counts.
func (c *Core) Applied(term uint64, e Entry) bool {
	c.applied = max(c.applied, term)
	counts := c.state.Apply(e)
	if d, ok := e.(Declaration); ok && counts && c.engine == promoted && (d.Node != c.self || d.ReplID != c.replid) {
		c.engine = stray // another engine makes the stream from here on
	}
	return counts
}

// barrier: this node leads, and everything that an earlier leader can have committed is applied.
func (c *Core) barrier() bool { return c.leads && c.applied == c.term }

// Leadership: the log's term, and whether this node leads it. Whoever stops leading, even for
// a moment, may have lost proposals: its engine holds effects that the log may never have.
func (c *Core) Leadership(term uint64, leads bool) {
	if term == c.term && leads == c.leads {
		return
	}
	if c.engine == promoted {
		c.engine = stray
	}
	c.term, c.leads, c.proposed = term, leads, 0
}

// Proposed: in that term the log was given the stream of this node's epoch up to offset. A session
// of an earlier term may say so late; the log refuses what it proposes.
func (c *Core) Proposed(term uint64, offset int64) {
	if c.leads && term == c.term {
		c.proposed = offset
	}
}

// EngineStarted: an engine runs; what it holds is of no use.
func (c *Core) EngineStarted() { c.engine, c.consumed, c.replid = stray, -1, "" }

// EngineDown: the engine ended, or its stream broke so that part of it may be missing.
func (c *Core) EngineDown() { c.engine, c.replid = down, "" }

// EngineFollows: the engine was told to follow, and will hold nothing but what it is fed.
func (c *Core) EngineFollows() {
	if c.engine == stray {
		c.engine, c.consumed = follows, -1
	}
}

// Consumed: the engine, which follows, has come to offset.
func (c *Core) Consumed(offset int64) {
	if c.engine == follows {
		c.consumed = offset
	}
}

// Promoted: the engine is a master since offset and calls its history replid. An engine that
// is not where the log is has to follow again.
func (c *Core) Promoted(replid string, offset int64) {
	if c.engine != follows || !c.leads || offset != c.state.Safe {
		c.Unsure()
		return
	}
	c.engine, c.replid, c.proposed = promoted, replid, 0
}

// Unsure: it is not known whether the engine was promoted. It has to follow again.
func (c *Core) Unsure() {
	if c.engine != down { // that one has to be started first
		c.engine = stray
	}
}

// Resume judges an engine of this node that asks to be fed. While the fate of its last bytes
// is open it waits; a node that leads has nobody to wait for.
func (c *Core) Resume(replid string, offset int64) Verdict {
	v := c.state.Resume(replid, offset)
	if v == Wait && c.barrier() && c.proposed <= c.state.Offset {
		return FullSync
	}
	return v
}
