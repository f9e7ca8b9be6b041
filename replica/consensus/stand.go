package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
)

// Raft's own timeouts are random, between one and two times ElectionTicks, and when two followers
// come to their end together the votes split and all of it begins anew. So a node that knows that
// there is no leader stands for election earlier, each after a time of its own by its rank among the
// voters. What makes an election safe is left alone: others still refuse while they hear a leader
// (pre-vote), and no answer to a client rests on any of these times.
const (
	firstStand = 2 // ticks without a leader
	rankStand  = 5 // more for each voter before this one
	// Each further one takes twice as long to come, so that on a slow machine an election is
	// not begun anew before it could end; raft's own random times go on beside it.
	begunStand = 2 // doublings when an election has begun, here or elsewhere
	mostStands = 6
)

// stand is what the loop keeps for that.
type stand struct {
	gone  uint64 // who led last
	term  uint64
	alone int // ticks without a leader and without an election
	tries int
}

// tick stands for election when it is this node's turn.
func (s *stand) tick(rn *raft.RawNode, members []Member) {
	now := rn.BasicStatus()
	if now.Lead != raft.None {
		*s = stand{gone: now.Lead, term: now.HardState.GetTerm()}
		return
	}
	if term := now.HardState.GetTerm(); term != s.term {
		s.term, s.alone, s.tries = term, 0, max(s.tries, begunStand)
	}
	rank, ok := rankOf(now.ID, s.gone, members)
	if !ok || s.tries > mostStands {
		return
	}
	if s.alone++; s.alone >= (firstStand+rankStand*rank)<<s.tries {
		s.alone = 0
		s.tries++
		_ = rn.Campaign() // it fails for those who may not
	}
}

// rankOf counts the voters before this one, but for who has gone.
func rankOf(self, gone uint64, members []Member) (rank int, ok bool) {
	for _, m := range members {
		if m.Voter && m.ID < self && m.ID != gone {
			rank++
		}
	}
	return rank, slices.ContainsFunc(members, func(m Member) bool { return m.ID == self && m.Voter })
}

// Lost: the connections of that node broke, as they do when its process ends. If it led, this
// node no longer takes it for the leader, and helps to elect another one if others say the same;
// a message from it is enough to have it back.
func (n *Node) Lost(id uint64) {
	n.in.call(func() {
		if n.raft.BasicStatus().Lead == id && id != n.cfg.ID {
			_ = n.raft.ForgetLeader() // it refuses only when reads rest on leases
		}
	})
}
