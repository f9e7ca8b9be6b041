package replica

import (
	"time"

	"github.com/holdfast-dev/holdfast/replica/consensus"
)

// contacts is when a leader last heard of each member, and of whom it has said that it does not.
type contacts struct {
	at   map[uint64]time.Time
	lost map[uint64]bool
}

// tellContacts tells once when a member is not heard of any more, and once when it is again.
func (n *Node) tellContacts(c *contacts, progress []consensus.Progress) {
	if c.at == nil {
		c.at, c.lost = map[uint64]time.Time{}, map[uint64]bool{}
	}
	now := time.Now()
	for _, p := range progress {
		last, known := c.at[p.ID]
		if p.Active || !known { // it has that long to be heard of
			c.at[p.ID] = now
		}
		if p.Active == !c.lost[p.ID] || !p.Active && (!known || now.Sub(last) < wellTime) {
			continue
		}
		c.lost[p.ID] = !p.Active
		n.mu.Lock()
		name := n.nameOf(p.ID)
		n.mu.Unlock()
		if p.Active {
			n.log.Info("a member answers again", "name", name, "after", now.Sub(last).Round(time.Millisecond))
		} else {
			n.log.Warn("a member does not answer", "name", name)
		}
	}
}
