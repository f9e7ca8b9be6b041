package consensus

import (
	pb "go.etcd.io/raft/v3/raftpb"
)

// hears is when each member last answered this leader, and in which term. Raft's own mark of that (RecentActive) is taken
// back from all members at once, an election's time apart, and says for a moment that nobody is there.
type hears map[uint64]answered

type answered struct {
	term uint64
	at   int64 // by now()
}

func (h hears) heard(m *pb.Message) {
	switch m.GetType() {
	case pb.MsgAppResp, pb.MsgHeartbeatResp:
		h[m.GetFrom()] = answered{m.GetTerm(), now()}
	}
}

// since tells whether that member has answered in the term, at that time or later.
func (h hears) since(id, term uint64, at int64) bool {
	a := h[id]
	return a.term == term && a.at >= at
}
