package consensus

import (
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// commits holds back what a leader says of its commit index alone. Raft sends such an append to
// every follower after every commit and most heartbeats, and each is answered: as much work as the
// entries themselves. The next append with entries says it too; when there is none, the next tick
// has it sent. Only the loop touches it.
type commits struct {
	late map[uint64]*pb.Message // by receiver
}

// thin takes out of ms what can wait. What finds out where a follower is, or has it go on, cannot.
func (c *commits) thin(rn *raft.RawNode, ms []*pb.Message) []*pb.Message {
	if c.late == nil {
		c.late = map[uint64]*pb.Message{}
	}
	out := ms[:0]
	for _, m := range ms {
		switch {
		case m.GetType() != pb.MsgApp:
		case len(m.GetEntries()) > 0:
			delete(c.late, m.GetTo())
		case flows(rn, m.GetTo()):
			c.late[m.GetTo()] = m
			continue
		}
		out = append(out, m)
	}
	return out
}

// flows: the follower takes entries as they come.
func flows(rn *raft.RawNode, id uint64) (yes bool) {
	rn.WithProgress(func(peer uint64, _ raft.ProgressType, p tracker.Progress) {
		yes = yes || peer == id && p.State == tracker.StateReplicate && !p.IsPaused()
	})
	return yes
}

// due gives what has waited, if this node still leads in the term in which it was to be said.
func (c *commits) due(rn *raft.RawNode) (out []*pb.Message) {
	term := rn.BasicStatus().HardState.GetTerm()
	for id, m := range c.late {
		if m.GetTerm() == term {
			out = append(out, m)
		}
		delete(c.late, id)
	}
	return out
}
