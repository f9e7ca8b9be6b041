package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dev/holdfast/replica/consensus"
)

// drainTime bounds how long commands that are on their way hold up a hand-over.
const drainTime = 50 * time.Millisecond

// successor is the voter that has most of the log, of those that are well; one whose disk has
// room comes before all that have none.
func (n *Node) successor(ctx context.Context) (uint64, bool) {
	voters := map[uint64]bool{}
	for _, m := range n.known() {
		voters[m.ID] = m.Voter
	}
	var best consensus.Progress
	bestLow := true
	for _, p := range n.cons.Progress(ctx) {
		if p.ID == n.ident.ID || !voters[p.ID] || !p.Active || !p.Sound {
			continue
		}
		low := n.hasNoRoom(p.ID)
		if best.ID == 0 || bestLow && !low || bestLow == low && p.Match >= best.Match {
			best, bestLow = p, low
		}
	}
	return best.ID, best.ID != 0
}

// transfer hands leadership over: no more commands are taken, replies that are on their way
// leave, then the other node is told to stand for election at once.
func (n *Node) transfer(ctx context.Context, name, why string) error {
	to, ok := n.successor(ctx)
	if name != "" {
		m, err := n.find(name)
		if err != nil {
			return err
		}
		if m.ID == n.ident.ID {
			return fmt.Errorf("%s leads already", m.Name)
		}
		to, ok = m.ID, m.Voter
	}
	if !ok {
		return errors.New("there is no other node that could lead")
	}
	n.sayHandOn(to, why)
	drain, cancel := context.WithTimeout(ctx, drainTime)
	shut := n.gate.Drain(drain) == nil // else clients go on, until leadership is gone
	cancel()
	ctx, cancel = context.WithTimeout(ctx, stepTime)
	defer cancel()
	err := n.cons.Transfer(ctx, to)
	if err != nil && shut { // this node goes on
		n.mu.Lock()
		if n.session != nil {
			n.session.opened = false
		}
		n.changed()
		n.mu.Unlock()
	}
	return err
}

// HandOver gives leadership away, if this node has it and there is somebody to take it, as a
// node does before it ends on purpose.
func (n *Node) HandOver(ctx context.Context) error {
	if !n.cons.State().Leads {
		return nil
	}
	if _, ok := n.successor(ctx); !ok {
		return nil
	}
	return n.transfer(ctx, "", "this node ends")
}

func (n *Node) sayHandOn(to uint64, why string) {
	n.mu.Lock()
	name := n.nameOf(to)
	n.mu.Unlock()
	n.log.Info("leadership is handed on", "to", name, "why", why)
}

// tend gives members that have caught up a vote, while this node leads.
func (n *Node) tend() {
	var heard contacts
	for n.ctx.Err() == nil {
		n.rest(100*time.Millisecond, nil)
		state := n.cons.State()
		if !state.Leads {
			heard = contacts{}
			continue
		}
		progress := n.cons.Progress(n.ctx)
		n.tellContacts(&heard, progress)
		for _, p := range progress {
			for _, m := range n.known() {
				if m.ID == p.ID && !m.Voter && p.Sound && p.Match+caughtUp >= state.Commit {
					n.promote(m)
				}
			}
		}
	}
}

// caughtUp is how many entries a node may lack that gets a vote.
const caughtUp = 1000

func (n *Node) promote(m Member) {
	ctx, cancel := context.WithTimeout(n.ctx, stepTime)
	defer cancel()
	if err := n.cons.Promote(ctx, m.ID); err != nil {
		n.log.Info("a node has no vote yet", "name", m.Name, "error", err)
		return
	}
	n.log.Info("a node has a vote", "name", m.Name)
}

// An engine that leads and answers nothing for silence is taken for gone: others can go on.
const (
	silence = time.Second
	listens = 200 * time.Millisecond
)

// listen gives leadership away when the engine stands still. One that runs a long script answers
// nobody, for five seconds by default, and says after that that it is busy; until then it shows by the
// time that it gets of a processor.
func (n *Node) listen() {
	for n.ctx.Err() == nil {
		n.rest(listens, nil)
		n.mu.Lock()
		e, leads := n.engine, n.session != nil && n.session.opened
		n.mu.Unlock()
		if !leads || e == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(n.ctx, silence)
		before := e.Worked()
		_, err := e.Do(ctx, "PING")
		cancel()
		if now := e.Worked(); now != before && now != "" {
			continue
		}
		if errors.Is(err, context.DeadlineExceeded) && n.ctx.Err() == nil {
			n.log.Warn("the engine does not answer", "for", silence)
			n.handOn("the engine does not answer")
		}
	}
}
