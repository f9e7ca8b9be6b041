package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"time"

	"github.com/holdfast-dev/holdfast/replica/consensus"
	"github.com/holdfast-dev/holdfast/replica/engine"
	"github.com/holdfast-dev/holdfast/replica/transport"
)

// request is what one node, or the command line, asks another.
type request struct {
	Do     string `json:"do"` // join, status, leave, transfer, digest
	Member Member `json:"member,omitzero"`
	To     string `json:"to,omitempty"`     // a name or an id
	Passed bool   `json:"passed,omitempty"` // by a node that does not lead; it is passed on once
	Proof  string `json:"proof,omitempty"`  // of the password of a node that joins
}

type answer struct {
	Error   string   `json:"error,omitempty"`
	Code    string   `json:"code,omitempty"` // of an error that is told apart
	Cluster string   `json:"cluster,omitempty"`
	Members []Member `json:"members,omitempty"`
	Status  *Status  `json:"status,omitempty"`
	Offset  int64    `json:"offset,omitempty"`
	Digest  string   `json:"digest,omitempty"`

	Digests map[string]string `json:"digests,omitempty"`
	Missing map[string]string `json:"missing,omitempty"`
}

// Status is what a node knows of itself and its cluster.
type Status struct {
	Cluster string       `json:"cluster"`
	ID      uint64       `json:"id"`
	Name    string       `json:"name"`
	Term    uint64       `json:"term"`
	Leader  string       `json:"leader"` // its name; empty while there is none
	Leads   bool         `json:"leads"`  // this node does, and its gate is open
	Epoch   uint64       `json:"epoch"`
	Offset  int64        `json:"offset"`
	Safe    int64        `json:"safe"`
	Step    string       `json:"step"` // what the node is about
	Nodes   []NodeStatus `json:"nodes"`
	Engine  EngineStatus `json:"engine"`
	Held    int64        `json:"held_bytes"`
	Clients int          `json:"clients"`
	Tunnels int          `json:"tunnels"`
	Refused int64        `json:"refused"` // clients for whom there was no place, so far
	Rounds  int          `json:"rounds"`
	// Proposed is how far a leader has given its engine's stream to the log.
	Proposed int64     `json:"proposed,omitempty"`
	Log      LogStatus `json:"log"`
	Disk     Disk      `json:"disk"`
}

// NodeStatus is a member, and how far the leader knows it to be.
type NodeStatus struct {
	Member
	Self   bool   `json:"self"`
	Leads  bool   `json:"leader"`
	Match  uint64 `json:"match,omitempty"` // the log's entries up to here are on its disk
	Active bool   `json:"active,omitempty"`
	// What the asked node knows of the others by asking them.
	Answers   bool    `json:"answers"`       // within the last seconds
	DiskLow   bool    `json:"disk_low"`      // it has too little room for what clients write
	ClockDiff float64 `json:"clock_seconds"` // how far its clock is ahead of the asked node's
	ClockErr  float64 `json:"clock_within"`  // the true difference is within so many seconds of that
}

// EngineStatus is what the node's engine says.
type EngineStatus struct {
	Pid    int    `json:"pid"`
	Role   string `json:"role"`
	Offset int64  `json:"offset"`
	Link   string `json:"link,omitempty"`
	Error  string `json:"error,omitempty"`
}

// LogStatus is where the log begins and ends.
type LogStatus struct {
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Commit   uint64 `json:"commit"`
	Applied  uint64 `json:"applied"`
	Snapshot uint64 `json:"snapshot"`
}

// adminTime bounds a request, and what it makes the nodes do.
const adminTime = 30 * time.Second

// Ask sends a request to the node at addr and waits for its answer.
func ask(ctx context.Context, t *transport.Transport, addr string, r request) (a answer, err error) {
	c, err := t.Dial(ctx, addr, "admin")
	if errors.Is(err, transport.ErrNoNode) {
		return a, fmt.Errorf("%s: is this the address of --raft? %w", addr, err)
	}
	if err != nil {
		return a, err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(adminTime))
	if err := json.NewEncoder(c).Encode(r); err != nil {
		return a, err
	}
	if err := json.NewDecoder(io.LimitReader(c, 1<<20)).Decode(&a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, &denial{a.Error, a.Code}
	}
	return a, nil
}

func (n *Node) serveAdmin(c *transport.Conn) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(adminTime))
	var r request
	if err := json.NewDecoder(io.LimitReader(c, 64<<10)).Decode(&r); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, adminTime)
	defer cancel()
	a, err := answer{}, errors.New("this node is still starting")
	n.withLog(func(*consensus.Node) { a, err = n.answer(ctx, r) })
	if err != nil {
		a.deny(err)
	}
	if json.NewEncoder(c).Encode(a) == nil {
		_ = c.CloseWrite()
	}
}

func (n *Node) answer(ctx context.Context, r request) (answer, error) {
	switch r.Do {
	case "status":
		s := n.Status(ctx)
		if !r.Passed {
			n.askLeader(ctx, &s)
		}
		return answer{Status: &s}, nil
	case "digest":
		offset, digest, err := n.Digest(ctx)
		return answer{Offset: offset, Digest: digest}, err
	case "verify":
		v, err := n.verifyAll(ctx)
		return answer{Digests: v.Digests, Missing: v.Missing}, err
	case "join", "leave":
		if !n.cons.State().Leads {
			return n.passOn(ctx, r)
		}
		if r.Do == "leave" {
			return answer{}, n.remove(ctx, r.To)
		}
		if err := n.checkPassword(r.Proof); err != nil {
			n.log.Warn("a node may not join", "name", r.Member.Name, "raft", r.Member.Raft, "error", err)
			return answer{}, err
		}
		return n.admit(ctx, r.Member)
	case "transfer":
		if !n.cons.State().Leads {
			return n.passOn(ctx, r)
		}
		return answer{}, n.transfer(ctx, r.To, "it was asked for")
	}
	return answer{}, fmt.Errorf("unknown request %.32q", r.Do)
}

// leaderTime bounds how long a node asks the leader for what only a leader knows; without it the answer has less.
const leaderTime = 500 * time.Millisecond

// askLeader adds how far the leader knows the members to be.
func (n *Node) askLeader(ctx context.Context, s *Status) {
	if s.Leader == "" || n.cons.State().Leads {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaderTime)
	defer cancel()
	a, err := n.passOn(ctx, request{Do: "status"})
	if err != nil || a.Status == nil {
		return // status says that it is not known
	}
	for i, m := range s.Nodes {
		for _, told := range a.Status.Nodes {
			if told.ID == m.ID {
				s.Nodes[i].Match, s.Nodes[i].Active = told.Match, told.Active
			}
		}
	}
}

// passOn asks the leader, once.
func (n *Node) passOn(ctx context.Context, r request) (answer, error) {
	n.mu.Lock()
	leader, moved := n.leader, n.members
	n.mu.Unlock()
	for _, m := range moved {
		if m.ID == leader && leader != n.ident.ID && !r.Passed {
			r.Passed = true
			return ask(ctx, n.net, m.Raft, r)
		}
	}
	return answer{}, ErrNoLeader
}

// admit makes a node a member that gets the log; tend gives it a vote when it has it.
func (n *Node) admit(ctx context.Context, m Member) (answer, error) {
	if m.ID == 0 || m.Raft == "" || m.Clients == "" {
		return answer{}, errors.New("a node that joins says its id and addresses")
	}
	for _, k := range n.known() {
		if k.ID == m.ID {
			return answer{Cluster: n.ident.Cluster, Members: n.known()}, nil
		}
		if k.Name == m.Name || k.Raft == m.Raft {
			return answer{}, fmt.Errorf("%w: %q at %s; if it is lost, let it leave first", errTaken, k.Name, k.Raft)
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return answer{}, err
	}
	if err := n.cons.Add(ctx, m.ID, b); err != nil {
		return answer{}, err
	}
	n.log.Info("a node joins", "name", m.Name, "raft", m.Raft)
	return answer{Cluster: n.ident.Cluster, Members: n.known()}, nil
}

func (n *Node) find(name string) (Member, error) {
	for _, m := range n.known() {
		if m.Name == name || fmt.Sprint(m.ID) == name {
			return m, nil
		}
	}
	return Member{}, fmt.Errorf("there is no node %.64q", name)
}

// remove takes a member out, if those that are left and well are a majority then.
func (n *Node) remove(ctx context.Context, name string) error {
	m, err := n.find(name)
	if err != nil {
		return err
	}
	if m.ID == n.ident.ID {
		return errors.New("the leader cannot leave; transfer leadership first")
	}
	if m.Voter {
		if err := n.wellWithout(ctx, m); err != nil {
			return err
		}
	}
	if err := n.cons.Remove(ctx, m.ID); err != nil {
		return err
	}
	n.log.Info("a node has left", "name", m.Name)
	return nil
}

// wellTime is how long a leader waits to hear of nodes: more than an election's time with the default settings.
const wellTime = time.Second

// wellWithout asks that those that are left without m and well are a majority. A leader that has just begun to lead
// hears of it within an election's time.
func (n *Node) wellWithout(ctx context.Context, m Member) error {
	wait, cancel := context.WithTimeout(ctx, wellTime)
	defer cancel()
	for {
		voters, well := 0, 0
		active := map[uint64]bool{}
		for _, p := range n.cons.Progress(ctx) {
			active[p.ID] = p.Active
		}
		for _, k := range n.known() {
			if k.ID == m.ID || !k.Voter {
				continue
			}
			voters++
			if active[k.ID] {
				well++
			}
		}
		if well > voters/2 {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-wait.Done():
			return fmt.Errorf("without %s only %d of %d nodes with a vote would be well, which is no majority: bring the others back, or let those that are lost leave first", m.Name, well, voters)
		}
	}
}

// join asks the nodes that were named until one has taken this node in.
func (n *Node) join(ctx context.Context) error {
	var last error
	said := map[string]string{} // once, not per try
	for ctx.Err() == nil {
		for _, addr := range n.cfg.Join {
			once, cancel := context.WithTimeout(ctx, adminTime)
			a, err := ask(once, n.net, addr, request{Do: "join", Member: n.self, Proof: proof(n.cfg.Secret, n.cfg.Password)})
			cancel()
			if err == nil {
				n.net.SetCluster(a.Cluster)
				n.setMembers(a.Members)
				n.log.Info("joined", "cluster", a.Cluster, "nodes", len(a.Members))
				return n.belong(a.Cluster, a.Members)
			}
			last = fmt.Errorf("%s: %w", addr, err)
			if errors.Is(err, errTaken) || errors.Is(err, transport.ErrSecret) || errors.Is(err, transport.ErrOtherCluster) ||
				errors.Is(err, transport.ErrVersion) || errors.Is(err, ErrPassword) {
				return fmt.Errorf("%w: %w", ErrJoin, last)
			}
			if why := err.Error(); why != said[addr] {
				n.log.Info("could not join yet; it is tried again", "node", addr, "error", err)
				said[addr] = why
			}
		}
		n.rest(500*time.Millisecond, ctx.Done())
	}
	return fmt.Errorf("%w: %w", ErrJoin, errors.Join(ctx.Err(), last))
}

// Status tells what the node knows now.
func (n *Node) Status(ctx context.Context) Status {
	raft := n.cons.State()
	soon, cancel := context.WithTimeout(ctx, viewTime) // a log that stands still has no answer
	progress := n.cons.Progress(soon)
	cancel()
	stats := n.gate.Stats()
	n.mu.Lock()
	state := n.core.State().Clone()
	s := Status{Cluster: n.ident.Cluster, ID: n.ident.ID, Name: n.self.Name, Term: raft.Term, Leader: n.nameOf(raft.Leader),
		Leads: n.session != nil && n.session.opened && raft.Leads, Epoch: state.Current().Number, Offset: state.Offset, Safe: state.Safe,
		Step: n.core.Next().String(), Held: stats.Held, Clients: stats.Conns, Refused: stats.Refused, Rounds: stats.Rounds, Tunnels: len(n.tunnels),
		Log: LogStatus{raft.First, raft.Last, raft.Commit, raft.Applied, n.copyAt}}
	if n.session != nil {
		s.Proposed = n.session.given.Load()
	}
	members, e, peers := n.members, n.engine, maps.Clone(n.peers)
	n.mu.Unlock()
	s.Disk = n.disk()
	for _, m := range members {
		node := NodeStatus{Member: m, Self: m.ID == n.ident.ID, Leads: m.ID == raft.Leader}
		for _, p := range progress {
			if p.ID == m.ID {
				node.Match, node.Active = p.Match, p.Active
			}
		}
		switch view := peers[m.ID]; {
		case node.Self:
			node.Answers, node.DiskLow = true, s.Disk.Low
		case view.answered && view.fresh():
			node.Answers, node.DiskLow, node.ClockDiff, node.ClockErr = true, view.low, view.ahead.Seconds(), view.within.Seconds()
		}
		s.Nodes = append(s.Nodes, node)
	}
	s.Engine = engineStatus(ctx, e)
	return s
}

func engineStatus(ctx context.Context, e *engine.Engine) EngineStatus {
	if e == nil {
		return EngineStatus{Error: "not running"}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r, err := e.Role(ctx)
	if err != nil {
		return EngineStatus{Pid: e.Pid(), Error: err.Error()}
	}
	s := EngineStatus{Pid: e.Pid(), Role: "replica", Offset: r.Offset, Link: r.Link}
	if r.Master {
		s.Role = "master"
	}
	return s
}

// Digest is the digest of all that this node's engine holds, and the offset that it is at. It
// holds up the engine while it is made.
func (n *Node) Digest(ctx context.Context) (offset int64, digest string, err error) {
	e := n.currentEngine()
	if e == nil {
		return 0, "", engine.ErrGone
	}
	before, err := e.Role(ctx)
	if err != nil {
		return 0, "", err
	}
	if digest, err = e.Digest(ctx); err != nil {
		return 0, "", err
	}
	after, err := e.Role(ctx)
	if err == nil && (before.Offset != after.Offset || !after.Master && after.Link != "connected") {
		err = errors.New("the engine is not at rest")
	}
	return after.Offset, digest, err
}

// Admin asks nodes from outside the cluster.
type Admin struct{ t *transport.Transport }

// NewAdmin knows the secret and nothing else.
func NewAdmin(secret []byte) (*Admin, error) {
	t, err := transport.New(transport.Config{Secret: secret})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return &Admin{t}, nil
}

// Close ends what is open.
func (a *Admin) Close() error { return a.t.Close() }

// Status asks the node at addr.
func (a *Admin) Status(ctx context.Context, addr string) (Status, error) {
	got, err := ask(ctx, a.t, addr, request{Do: "status"})
	if err != nil {
		return Status{}, err
	}
	if got.Status == nil {
		return Status{}, net.ErrClosed
	}
	return *got.Status, nil
}

// Leave takes a node out of the cluster, by its name or id. The node itself has to be ended;
// its directory is of no use after that.
func (a *Admin) Leave(ctx context.Context, addr, node string) error {
	_, err := ask(ctx, a.t, addr, request{Do: "leave", To: node})
	return err
}

// Transfer hands leadership to a node, or to the one that is best up to date when the name is empty.
func (a *Admin) Transfer(ctx context.Context, addr, node string) error {
	_, err := ask(ctx, a.t, addr, request{Do: "transfer", To: node})
	return err
}
