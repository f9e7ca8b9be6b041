package replica

import (
	"errors"
	"slices"

	"github.com/holdfast-dev/holdfast/replica/consensus"
)

// ErrTakenOut: the cluster has removed this node. Its id never comes back.
var ErrTakenOut = errors.New("replica: this node was taken out of the cluster; `holdfast node rejoin` takes it in again")

// A node that is removed hears no more of the log, so it hardly ever sees the entry that removed it. It learns of that from
// those who have it: each answer to its questions (see peers.go) says up to which entry the other one knows who the members
// are, and whether the node that asks is one. Ids are never used again: who is no member at an entry that comes after
// one at which it was, has been removed. A peer that is behind, and has not seen the node come yet, tells nothing.

// standing is what a node tells another one that asks: whether it is a member at entry Index, or at one after it.
type standing struct {
	Index    uint64 `json:"index,omitempty"`
	Stranger bool   `json:"stranger,omitempty"`
}

// standingOf needs mu.
func (n *Node) standingOf(id uint64) standing {
	return standing{n.index, n.index > 0 && !n.isMember(id)}
}

// isMember needs mu.
func (n *Node) isMember(id uint64) bool {
	return slices.ContainsFunc(n.members, func(m Member) bool { return m.ID == id })
}

// seenAsMember notes the first entry at which this node is a member. It needs mu, and that the members are those at n.index.
func (n *Node) seenAsMember() {
	if n.memberAt == 0 && n.isMember(n.ident.ID) {
		n.memberAt = n.index
	}
}

// removedBy tells whether what another node said means that this one was removed. It needs mu.
func (n *Node) removedBy(s standing) bool {
	return s.Stranger && n.memberAt > 0 && s.Index >= n.memberAt
}

// takenOut ends this node.
func (n *Node) takenOut(how string) {
	n.telling.Do(func() { n.log.Error(ErrTakenOut.Error(), "seen", how) })
	n.mu.Lock()
	n.removed = true // the log, which may be opening, looks at that
	n.mu.Unlock()
	n.withLog(func(c *consensus.Node) { c.Stop(ErrTakenOut) })
}
