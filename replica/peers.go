package replica

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/holdfast-dev/holdfast/replica/transport"
)

// Nodes ask one another how they are, once a second: whether their disks have room, what their
// clocks say, whether their clients have the same password, and who is a member. Nothing that is promised to clients rests on the
// answers; a node that was removed ends by them (see removal.go).

const (
	askEvery  = time.Second
	answerDue = 2 * time.Second
	// staleAfter is when an answer says nothing any more.
	staleAfter = 5 * time.Second
)

// report is a node's answer.
type report struct {
	Clock time.Time `json:"clock"`
	Low   bool      `json:"low"`   // its disk has too little room for what clients write
	Proof string    `json:"proof"` // of its clients' password
	standing
}

// peerView is what this node knows of another one.
type peerView struct {
	at       time.Time // when it answered, or was first asked
	answered bool
	low      bool          // its disk has little room
	stranger bool          // it does not know this node as a member
	ahead    time.Duration // how far its clock is ahead of this node's
	within   time.Duration // the true difference is within this of that
}

func (v peerView) fresh() bool { return time.Since(v.at) < staleAfter }

// askPeers keeps one goroutine for each other member.
func (n *Node) askPeers() {
	asked := map[Member]context.CancelFunc{} // which end with n.ctx, too
	for n.ctx.Err() == nil {
		there := map[Member]bool{}
		for _, m := range n.known() {
			m := Member{ID: m.ID, Raft: m.Raft}
			there[m] = m.ID != n.ident.ID
			if !there[m] || asked[m] != nil {
				continue
			}
			ctx, cancel := context.WithCancel(n.ctx)
			asked[m] = cancel
			n.wg.Add(1)
			go func() {
				defer n.wg.Done()
				n.askPeer(ctx, m)
			}()
		}
		for m, cancel := range asked {
			if !there[m] {
				cancel()
				delete(asked, m)
			}
		}
		n.rest(askEvery, nil)
	}
}

// askPeer asks one node until ctx ends; then what is known of it is forgotten.
func (n *Node) askPeer(ctx context.Context, m Member) {
	n.mu.Lock()
	n.peers[m.ID] = peerView{at: time.Now()} // it has that long to answer
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.peers, m.ID)
		n.mu.Unlock()
	}()
	for ctx.Err() == nil {
		c, err := n.net.Dial(ctx, m.Raft, "report")
		if err == nil {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			n.talk(ctx, c, m.ID)
			stop()
			_ = c.Close() // it is dialled again
		}
		n.rest(askEvery, ctx.Done())
	}
}

func (n *Node) talk(ctx context.Context, c *transport.Conn, id uint64) {
	answers, warned := json.NewDecoder(c), false // a node that gets another password has another connection
	for ctx.Err() == nil {
		_ = c.SetDeadline(time.Now().Add(answerDue))
		asked, since := n.now(), time.Now()
		if _, err := io.WriteString(c, "?\n"); err != nil {
			return
		}
		var r report
		if err := answers.Decode(&r); err != nil {
			return
		}
		took := time.Since(since)
		n.mu.Lock()
		n.peers[id] = peerView{at: time.Now(), answered: true, low: r.Low, stranger: r.Stranger, ahead: r.Clock.Sub(asked) - took/2, within: took / 2}
		removed := n.removedBy(r.standing)
		n.mu.Unlock()
		if removed {
			n.takenOut("another node says so")
			return
		}
		if !warned && !n.samePassword(r.Proof) && n.cons.State().Leads {
			warned = true
			n.mu.Lock()
			name := n.nameOf(id)
			n.mu.Unlock()
			n.log.Warn("another node has another password for clients: all have to have the same, since each can lead", "node", name)
		}
		n.rest(askEvery, ctx.Done())
	}
}

// serveReports answers them.
func (n *Node) serveReports(c *transport.Conn) {
	defer func() { _ = c.Close() }()
	ask, answers := make([]byte, 2), json.NewEncoder(c)
	for n.ctx.Err() == nil {
		_ = c.SetDeadline(time.Now().Add(staleAfter))
		if _, err := io.ReadFull(c, ask); err != nil {
			return
		}
		r := report{Clock: n.now(), Proof: proof(n.cfg.Secret, n.cfg.Password)}
		n.mu.Lock()
		r.Low, r.standing = n.low, n.standingOf(c.Peer)
		n.mu.Unlock()
		if answers.Encode(r) != nil {
			return
		}
	}
}

// now is what this node's clock says.
func (n *Node) now() time.Time {
	if clock := n.clock.Load(); clock != nil {
		return (*clock)()
	}
	return time.Now()
}

// isStranger: another node, asked lately, does not know this one as a member.
func (n *Node) isStranger() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, view := range n.peers {
		if view.stranger && view.fresh() {
			return true
		}
	}
	return false
}
