package consensus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Limits of what is on its way.
const (
	maxMessage     = 1 << 20 // bytes of entries in one message, and in one Apply
	maxInflight    = 8 << 20 // bytes to one follower that it has not acknowledged: what the loop reads from the disk in one turn
	maxUncommitted = 256 << 20
	maxQueued      = 16 << 20 // bytes of proposals that raft has not seen; Propose waits above it
)

// Node is one node of a cluster. Its methods may be called from everywhere.
type Node struct {
	cfg     Config
	disk    *disk
	files   files
	reserve reserve
	mark    mark          // only the marker touches it
	raft    *raft.RawNode // only the loop touches it

	in      inbox
	appends queue
	applies queue
	turned  atomic.Int64 // when the loop began its last turn
	found   State        // where the log was when it was opened
	stop    chan struct{}
	failing sync.Once
	wg      sync.WaitGroup

	mu      sync.Mutex
	state   State
	changed chan struct{} // closed and replaced when term or leader change
	failure error

	placing sync.Mutex // a snapshot's file and what the log says of it change together
	members *history   // only the applier changes it
	reads   reads      // only the loop touches it
	commits commits
	stand   stand
	hears   hears // only the loop touches it
}

// Bootstrap makes, in an empty directory, the first node of a new cluster: its log begins
// with a snapshot, whose file body writes.
func Bootstrap(c Config, context, data []byte, body func(io.Writer) error) (err error) {
	if err := c.withDefaults(); err != nil {
		return err
	}
	d, err := openDisk(c, func(error) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.db.Close()) }()
	if d.last > 0 || d.hard.GetTerm() > 0 {
		return ErrExists
	}
	f, err := openFiles(c.FS, c.Dir)
	if err != nil {
		return err
	}
	if err := f.write(1, body); err != nil {
		return err
	}
	first := membership{index: 1, conf: pb.EnsureConfState(&pb.ConfState{Voters: []uint64{c.ID}}),
		members: []Member{{ID: c.ID, Voter: true, Context: context}}}
	s, err := first.snapshot(1, 1, data)
	if err != nil {
		return err
	}
	return d.save([]*pb.Message{{Snapshot: s, Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(1))}})
}

// Open starts a node on what its directory holds: a log, or nothing, when it is to be added to
// a cluster by a leader. Errors: ErrDamaged, ErrFormat, or of the disk.
func Open(c Config) (*Node, error) {
	if err := c.withDefaults(); err != nil {
		return nil, err
	}
	n := &Node{cfg: c, stop: make(chan struct{}), changed: make(chan struct{}), hears: hears{}}
	n.reserve = reserve{fs: c.FS, dir: c.Dir, size: c.ReserveBytes}
	if err := MakeDir(c.FS, c.Dir); err != nil {
		return nil, fullOr(err)
	}
	if err := n.reserve.keep(); err != nil {
		c.Logger.Warn("there is no room for the log's reserve", "dir", c.Dir, "bytes", c.ReserveBytes, "error", err)
	}
	n.in.init()
	n.appends.init()
	n.applies.init()
	var err error
	onLog := c // snapshots must not take the reserve
	onLog.FS = vfs.OnDiskFull(c.FS, n.full)
	if n.disk, err = openDisk(onLog, n.fail); err != nil {
		return nil, fullOr(err)
	}
	n.members, n.disk.want = n.disk.members, c.WantSnapshot
	if err = n.checkMark(); err == nil {
		n.files, err = openFiles(c.FS, c.Dir)
	}
	if err == nil {
		err = n.begin()
	}
	if err == nil {
		n.raft, err = raft.NewRawNode(n.raftConfig())
	}
	if err != nil {
		return nil, fullOr(errors.Join(err, n.mark.close(), n.disk.db.Close()))
	}
	n.publish()
	n.found = n.state
	n.turned.Store(now())
	n.wg.Add(4)
	go n.loop()
	go n.appender()
	go n.applier()
	go n.marker()
	return n, nil
}

func (n *Node) raftConfig() *raft.Config {
	return &raft.Config{
		ID: n.cfg.ID, Storage: n.disk, Applied: n.state.Applied, AsyncStorageWrites: true,
		ElectionTick: n.cfg.ElectionTicks, HeartbeatTick: n.cfg.HeartbeatTicks,
		PreVote: true, CheckQuorum: true, ReadOnlyOption: raft.ReadOnlySafe, DisableProposalForwarding: true,
		MaxSizePerMsg: maxMessage, MaxCommittedSizePerReady: maxMessage,
		MaxInflightMsgs: 256, MaxInflightBytes: maxInflight, MaxUncommittedEntriesSize: maxUncommitted,
		Logger: &raft.DefaultLogger{Logger: slog.NewLogLogger(n.cfg.Logger.Handler(), slog.LevelDebug)},
	}
}

// begin restores what the log begins with, if its file is what was written.
func (n *Node) begin() error {
	if s := n.disk.newest(); !raft.IsEmptySnap(s) {
		if err := n.files.verify(s.GetMetadata().GetIndex()); err != nil {
			return err
		}
	}
	return n.restore()
}

// restore hands the Machine what the log begins with.
func (n *Node) restore() error {
	s := n.disk.newest()
	if raft.IsEmptySnap(s) {
		return nil
	}
	m, data, err := readSnapshot(s)
	if err != nil {
		return err
	}
	n.members.add(m)
	n.mu.Lock()
	n.state.Applied = m.index
	n.mu.Unlock()
	n.cfg.Machine.Members(m.members)
	return n.cfg.Machine.Restore(Snapshot{m.index, s.GetMetadata().GetTerm(), data})
}

// fail ends the node: a log that cannot be written answers nobody.
func (n *Node) fail(err error) {
	n.failing.Do(func() {
		err = fullOr(err)
		n.cfg.Logger.Error("the log has failed; this node stops", "error", err)
		n.mu.Lock()
		n.failure = err
		n.mu.Unlock()
		close(n.stop)
	})
}

// Stop ends the node for a reason that is not its log's.
func (n *Node) Stop(why error) {
	n.failing.Do(func() {
		n.mu.Lock()
		n.failure = why
		n.mu.Unlock()
		close(n.stop)
	})
}

// Stopped is closed when the node has been closed or has failed.
func (n *Node) Stopped() <-chan struct{} { return n.stop }

// Failed is why the node stopped by itself; nil otherwise.
func (n *Node) Failed() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failure
}

// Close ends the node. No goroutine is left when it returns.
func (n *Node) Close() error {
	n.failing.Do(func() { close(n.stop) })
	n.wg.Wait()
	n.reads.end()
	if err := errors.Join(n.mark.close(), n.disk.close()); n.Failed() == nil {
		return err
	}
	return nil // Failed has said it
}

// Propose gives an entry to the log if this node leads in that term. What one goroutine
// proposes in one term keeps its order, and nothing of it is left out while the term lasts.
// It waits while there is too much on its way. Errors: ErrNotLeader, ErrClosed, or ctx's.
func (n *Node) Propose(ctx context.Context, term uint64, data []byte) error {
	if s := n.State(); !s.Leads || s.Term != term {
		return ErrNotLeader
	}
	return n.in.propose(ctx, n.stop, proposal{term, data, time.Now()})
}

// Verify calls done with true once a majority has confirmed, in answer to messages that were
// sent after this call, that this node leads in that term; with false when it does not, also when
// it leads in a later one: others may have led between.
func (n *Node) Verify(term uint64, done func(ok bool)) {
	select {
	case <-n.stop:
		done(false)
	default:
		n.in.read(term, done)
	}
}

// Step takes messages from other nodes.
func (n *Node) Step(ms ...*pb.Message) { n.in.step(ms) }

// Unreachable: a message to that node was lost.
func (n *Node) Unreachable(id uint64) {
	n.in.call(func() { n.raft.ReportUnreachable(id) })
}

// SnapshotSent: a snapshot's file reached that node, or did not.
func (n *Node) SnapshotSent(id uint64, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	n.in.call(func() { n.raft.ReportSnapshot(id, status) })
}

// State is where the node is.
func (n *Node) State() State {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state
}

// Changed gives the state, and a channel that is closed when its term or leader change.
func (n *Node) Changed() (State, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state, n.changed
}

func (n *Node) loop() {
	defer n.wg.Done()
	tick := time.NewTicker(n.cfg.Tick)
	defer tick.Stop()
	for {
		select {
		case <-n.stop:
			return
		case <-tick.C:
			n.raft.Tick()
			n.stand.tick(n.raft, n.members.newest().members)
			n.sayCommits()
		case <-n.in.wake:
		}
		n.turned.Store(now())
		n.take()
		for n.raft.HasReady() {
			n.ready(n.raft.Ready())
		}
		n.publish()
	}
}

// take gives raft all that has come in.
func (n *Node) take() {
	got := n.in.take()
	n.reads.ask(n.raft, got.reads)
	for _, m := range got.steps {
		n.hears.heard(m)
		if err := n.raft.Step(m); err != nil && !errors.Is(err, raft.ErrStepPeerNotFound) {
			n.cfg.Logger.Debug("replica: message", "type", m.GetType(), "error", err)
		}
		if m.GetType() == pb.MsgHeartbeatResp {
			n.reads.heard(n.raft)
		}
	}
	for _, f := range got.calls {
		f()
	}
	n.in.refused(n.propose(got.proposals))
}

// propose returns what raft cannot take now, which stays in front of the queue.
func (n *Node) propose(ps []proposal) []proposal {
	for len(ps) > 0 {
		s := n.raft.BasicStatus()
		if s.RaftState != raft.StateLeader {
			return nil // the term is over, and with it all that was proposed in it
		}
		var ents []*pb.Entry
		size, k := 0, 0
		for ; k < len(ps) && size < maxMessage; k++ {
			if ps[k].term == s.HardState.GetTerm() {
				ents = append(ents, &pb.Entry{Data: ps[k].data})
				size += len(ps[k].data)
			}
		}
		if len(ents) > 0 {
			err := n.raft.Step(&pb.Message{Type: pb.MsgProp.Enum(), From: new(n.cfg.ID), Entries: ents})
			if err != nil { // too much is uncommitted, or leadership is being handed over
				return ps
			}
		}
		ps = ps[k:]
	}
	return nil
}

func (n *Node) ready(rd raft.Ready) {
	var out []*pb.Message
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			n.appends.put(m)
		case raft.LocalApplyThread:
			n.applies.put(m)
		default:
			out = append(out, m)
		}
	}
	if out = n.commits.thin(n.raft, out); len(out) > 0 {
		n.cfg.Send(out)
	}
	n.reads.answered(rd.ReadStates, n.raft, n.cfg.Observe)
}

// sayCommits sends what has waited for entries to go with.
func (n *Node) sayCommits() {
	if late := n.commits.due(n.raft); len(late) > 0 {
		n.cfg.Send(late)
	}
}

// publish makes the loop's view everybody's.
func (n *Node) publish() {
	s := n.raft.BasicStatus()
	term, leads := s.HardState.GetTerm(), s.RaftState == raft.StateLeader
	last, _ := n.disk.LastIndex()
	first, _ := n.disk.FirstIndex()
	n.reads.during(term, leads)
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.state
	n.state.ID, n.state.Leader, n.state.Term, n.state.Leads = n.cfg.ID, s.Lead, term, leads
	n.state.Commit, n.state.First, n.state.Last = s.HardState.GetCommit(), first, last
	if before.Term != term || before.Leader != s.Lead || before.Leads != leads {
		close(n.changed)
		n.changed = make(chan struct{})
	}
}

// appender writes the log; answers leave when it is on disk.
func (n *Node) appender() {
	defer n.wg.Done()
	for {
		ms := n.appends.take(n.stop)
		if ms == nil {
			return
		}
		begin := time.Now()
		if err := n.disk.save(ms); err != nil {
			n.fail(fmt.Errorf("writing the log: %w", err))
			return
		}
		n.appends.done()
		n.cfg.Observe(Synced, time.Since(begin))
		for _, m := range ms {
			if !raft.IsEmptySnap(m.GetSnapshot()) {
				n.applies.put(m) // raft hands on no later entry before it has this one's response
			}
		}
		n.respond(ms)
	}
}

// respond delivers what raft wants to be said once ms are done.
func (n *Node) respond(ms []*pb.Message) {
	var own, out []*pb.Message
	for _, m := range ms {
		for _, r := range m.GetResponses() {
			if r.GetTo() == n.cfg.ID {
				own = append(own, r)
			} else {
				out = append(out, r)
			}
		}
	}
	if len(out) > 0 {
		n.cfg.Send(out)
	}
	if len(own) > 0 {
		n.in.step(own)
	}
}

// applier hands what is committed to the Machine.
func (n *Node) applier() {
	defer n.wg.Done()
	for {
		ms := n.applies.take(n.stop)
		if ms == nil {
			return
		}
		for _, m := range ms {
			if err := n.applyOne(m); err != nil {
				n.fail(err)
				return
			}
		}
		n.applies.done()
	}
}

func (n *Node) applyOne(m *pb.Message) error {
	if m.GetType() == pb.MsgStorageAppend { // whose responses have left; it brought a snapshot
		return n.restore()
	}
	if err := n.apply(m.GetEntries()); err != nil {
		return err
	}
	n.respond([]*pb.Message{m})
	return nil
}

func (n *Node) apply(entries []*pb.Entry) error {
	batch := make([]Entry, 0, len(entries))
	for _, e := range entries {
		out := Entry{Index: e.GetIndex(), Term: e.GetTerm()}
		out.Old = out.Index <= n.found.Last && out.Term <= n.found.Term
		out.Newest = out.Old && out.Index == n.found.Last
		switch e.GetType() {
		case pb.EntryNormal:
			out.Data = e.GetData()
		default:
			if err := n.change(e); err != nil {
				return err
			}
		}
		batch = append(batch, out)
	}
	if len(batch) == 0 {
		return nil
	}
	n.mu.Lock()
	n.state.Applied = batch[len(batch)-1].Index
	n.mu.Unlock()
	return n.cfg.Machine.Apply(batch)
}

// change applies a change of the members. Raft has to hear of it in its own goroutine.
func (n *Node) change(e *pb.Entry) error {
	var change pb.ConfChangeI
	var v1 pb.ConfChange
	var v2 pb.ConfChangeV2
	var err error
	if e.GetType() == pb.EntryConfChange {
		change, err = &v1, proto.Unmarshal(e.GetData(), &v1)
	} else {
		change, err = &v2, proto.Unmarshal(e.GetData(), &v2)
	}
	if err != nil {
		return fmt.Errorf("%w: entry %d: %w", ErrDamaged, e.GetIndex(), err)
	}
	conf := make(chan *pb.ConfState, 1)
	n.in.call(func() {
		conf <- n.raft.ApplyConfChange(change)
		n.reads.again(n.raft)
		n.sayCommits() // who does not know the new members cannot elect one of them
	})
	select {
	case c := <-conf:
		n.members.change(e.GetIndex(), c, change.AsV2())
		n.cfg.Machine.Members(n.members.newest().members)
		return nil
	case <-n.stop:
		return ErrClosed
	}
}

// id gives reads a name of their own.
func id(k uint64) []byte { return binary.BigEndian.AppendUint64(nil, k) }
