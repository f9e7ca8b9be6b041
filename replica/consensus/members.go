package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// membership is who belongs to the cluster from entry index on.
type membership struct {
	index   uint64
	conf    *pb.ConfState
	members []Member
}

// stored is a snapshot's data in its written form.
type stored struct {
	Members []Member `json:"members"`
	Data    []byte   `json:"data"`
}

func (m membership) snapshot(index, term uint64, data []byte) (*pb.Snapshot, error) {
	b, err := json.Marshal(stored{m.members, data})
	if err != nil {
		return nil, err
	}
	return &pb.Snapshot{Data: b, Metadata: &pb.SnapshotMetadata{Index: &index, Term: &term, ConfState: m.conf}}, nil
}

func readSnapshot(s *pb.Snapshot) (m membership, data []byte, err error) {
	var st stored
	if err := json.Unmarshal(s.GetData(), &st); err != nil {
		return m, nil, fmt.Errorf("%w: snapshot: %w", ErrDamaged, err)
	}
	return membership{s.GetMetadata().GetIndex(), s.GetMetadata().GetConfState(), st.Members}, st.Data, nil
}

// history knows the members at each index that a snapshot can still be made of.
type history struct {
	mu  sync.Mutex
	all []membership // the newest last
}

func (h *history) add(m membership) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, m)
}

func (h *history) newest() membership {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.all) == 0 {
		return membership{conf: pb.EnsureConfState(nil)}
	}
	return h.all[len(h.all)-1]
}

func (h *history) at(index uint64) (membership, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range slices.Backward(h.all) {
		if m.index <= index {
			return m, true
		}
	}
	return membership{}, false
}

// forget gives up what no snapshot from index on needs.
func (h *history) forget(index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.all) > 1 && h.all[1].index <= index {
		h.all = h.all[1:]
	}
}

func (h *history) change(index uint64, conf *pb.ConfState, change *pb.ConfChangeV2) {
	members := slices.Clone(h.newest().members)
	for _, c := range change.GetChanges() {
		i := slices.IndexFunc(members, func(m Member) bool { return m.ID == c.GetNodeId() })
		m := Member{ID: c.GetNodeId(), Context: change.GetContext()}
		if i >= 0 {
			if len(m.Context) == 0 {
				m.Context = members[i].Context
			}
			members = slices.Delete(members, i, i+1)
		}
		if c.GetType() != pb.ConfChangeRemoveNode {
			members = append(members, m)
		}
	}
	for i := range members {
		members[i].Voter = slices.Contains(conf.GetVoters(), members[i].ID)
	}
	h.add(membership{index, conf, members})
}

// Add makes a node a member that gets the log and has no vote yet; context is for the
// Machines. Errors: ErrNotLeader, ErrStopped, ErrClosed.
func (n *Node) Add(ctx context.Context, id uint64, context []byte) error {
	return n.reconfigure(ctx, pb.ConfChangeAddLearnerNode, id, context)
}

// Promote gives a member a vote. See Add.
func (n *Node) Promote(ctx context.Context, id uint64) error {
	return n.reconfigure(ctx, pb.ConfChangeAddNode, id, nil)
}

// Remove takes a node out of the cluster; it must not come back under its id. See Add.
func (n *Node) Remove(ctx context.Context, id uint64) error {
	return n.reconfigure(ctx, pb.ConfChangeRemoveNode, id, nil)
}

func (n *Node) reconfigure(ctx context.Context, kind pb.ConfChangeType, id uint64, about []byte) error {
	change := &pb.ConfChangeV2{Changes: []*pb.ConfChangeSingle{{Type: &kind, NodeId: &id}}, Context: about}
	seen := func() bool {
		members := n.members.newest().members
		i := slices.IndexFunc(members, func(m Member) bool { return m.ID == id })
		switch kind {
		case pb.ConfChangeRemoveNode:
			return i < 0
		case pb.ConfChangeAddNode:
			return i >= 0 && members[i].Voter
		}
		return i >= 0
	}
	// Raft drops a change silently while another one is on its way, and this one is safe to repeat.
	for ctx.Err() == nil && !seen() {
		answer := make(chan error, 1)
		n.in.call(func() {
			if n.raft.BasicStatus().RaftState != raft.StateLeader {
				answer <- ErrNotLeader
				return
			}
			answer <- n.raft.ProposeConfChange(change)
		})
		if err := done(ctx, answer, n.stop); err != nil {
			return err
		}
		once, cancel := context.WithTimeout(ctx, changeAgain)
		_ = n.until(once, seen) // else it is proposed again
		cancel()
	}
	return n.until(ctx, seen)
}

// changeAgain is when a change that has not been seen is proposed again.
const changeAgain = 250 * time.Millisecond

// Progress is how far the leader knows a member to be.
type Progress struct {
	ID     uint64
	Match  uint64 // the entries up to here are on its disk
	Active bool   // it has answered within an election's time
	Sound  bool   // it gets entries as they come, not a snapshot
}

// Progress is what the leader knows of all members; nil when this node does not lead.
func (n *Node) Progress(ctx context.Context) []Progress {
	answer := make(chan []Progress, 1)
	n.in.call(func() {
		var out []Progress
		if s := n.raft.BasicStatus(); s.RaftState == raft.StateLeader {
			lately := now() - int64(n.cfg.Tick)*int64(n.cfg.ElectionTicks)
			n.raft.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
				active := id == n.cfg.ID || n.hears.since(id, s.HardState.GetTerm(), lately)
				out = append(out, Progress{ID: id, Match: p.Match, Active: active, Sound: p.State == tracker.StateReplicate})
			})
		}
		answer <- out
	})
	select {
	case out := <-answer:
		return out
	case <-ctx.Done():
	case <-n.stop:
	}
	return nil
}

// Transfer hands leadership to a member. When that has not been done within an election's time raft has given it up,
// and within one more nobody who was told to stand for election will win it. Errors: ErrNotLeader, ErrStopped,
// ErrClosed.
func (n *Node) Transfer(ctx context.Context, to uint64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(2*n.cfg.ElectionTicks)*n.cfg.Tick)
	defer cancel()
	answer := make(chan error, 1)
	n.in.call(func() {
		if n.raft.BasicStatus().RaftState != raft.StateLeader {
			answer <- ErrNotLeader
			return
		}
		n.raft.TransferLeader(to)
		answer <- nil
	})
	if err := done(ctx, answer, n.stop); err != nil {
		return err
	}
	return n.until(ctx, func() bool { s := n.State(); return s.Leader != n.cfg.ID && s.Leader != 0 })
}

// Campaign stands for election now, which a node may do that knows that there is no leader.
func (n *Node) Campaign() {
	n.in.call(func() { _ = n.raft.Campaign() }) // it fails for those who have no vote
}

// until waits for what is seen in the node's state. It looks now and then: changes are rare.
func (n *Node) until(ctx context.Context, ok func() bool) error {
	for !ok() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrStopped, ctx.Err())
		case <-n.stop:
			return ErrClosed
		}
	}
	return nil
}

// SaveSnapshot puts a file and data in the place of the log up to index, which must have been
// applied here, and then gives up that part of the log. Where there is a snapshot of index, or of a later entry,
// that one stays.
func (n *Node) SaveSnapshot(index uint64, data []byte, body func(io.Writer) error) error {
	if index <= n.disk.newest().GetMetadata().GetIndex() {
		return nil
	}
	m, ok := n.members.at(index)
	if !ok {
		return fmt.Errorf("replica: no members are known at entry %d", index)
	}
	term, err := n.disk.Term(index)
	switch {
	case errors.Is(err, ErrClosed):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", ErrCompacted, err)
	}
	s, err := m.snapshot(index, term, data)
	if err != nil {
		return err
	}
	part, err := n.files.begin(index, body)
	if err != nil {
		return err
	}
	n.placing.Lock()
	defer n.placing.Unlock()
	if index <= n.disk.newest().GetMetadata().GetIndex() { // one came meanwhile
		return n.files.fs.Remove(part)
	}
	if err := n.files.place(part, index); err != nil {
		return err
	}
	if err := n.disk.putSnapshot(s, n.cfg.KeepBytes); err != nil {
		return err
	}
	n.members.forget(index)
	return n.files.prune(index)
}

// SnapshotFile opens the file of the snapshot at index.
func (n *Node) SnapshotFile(index uint64) (io.ReadCloser, int64, error) { return n.files.open(index) }

// SnapshotInfo is the size of the snapshot at index, and when it was made or received here.
func (n *Node) SnapshotInfo(index uint64) (size int64, made time.Time, err error) {
	return n.files.stat(index)
}

// ReceiveSnapshot stores the file of a snapshot that another node sends, then takes its message. One that
// comes a second time does not touch the first one's file.
func (n *Node) ReceiveSnapshot(m *pb.Message, file io.Reader) error {
	index := m.GetSnapshot().GetMetadata().GetIndex()
	part, err := n.files.begin(index, func(w io.Writer) error { _, err := io.Copy(w, file); return err })
	if err != nil {
		return err
	}
	n.placing.Lock()
	defer n.placing.Unlock()
	commit, err := n.committed()
	if err != nil || index <= commit { // raft, which has that, says so
		n.Step(m)
		return errors.Join(err, n.files.fs.Remove(part))
	}
	if err := n.files.place(part, index); err != nil {
		return err
	}
	n.Step(m)
	_, err = n.committed() // by now raft has taken it, and has it committed, or has no use for it
	return err
}

// committed is what raft knows to be so once it has looked at all that came before.
func (n *Node) committed() (uint64, error) {
	commit := make(chan uint64, 1)
	n.in.call(func() { commit <- n.raft.BasicStatus().HardState.GetCommit() })
	select {
	case c := <-commit:
		return c, nil
	case <-n.stop:
		return 0, ErrClosed
	}
}

// Entries gives entries from lo up to and without hi, at least one, of at most about most
// bytes. They must be committed for what is done with them to mean anything. ErrCompacted.
func (n *Node) Entries(lo, hi uint64, most int64) ([]Entry, error) {
	es, err := n.disk.Entries(lo, hi, uint64(most))
	if errors.Is(err, raft.ErrCompacted) {
		return nil, ErrCompacted
	}
	if err != nil {
		return nil, err
	}
	out := make([]Entry, 0, len(es))
	for _, e := range es {
		entry := Entry{Index: e.GetIndex(), Term: e.GetTerm()}
		if e.GetType() == pb.EntryNormal {
			entry.Data = e.GetData()
		}
		out = append(out, entry)
	}
	return out, nil
}
