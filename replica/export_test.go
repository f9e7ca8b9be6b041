package replica

import "time"

// MakeSnapshot makes one now.
func (n *Node) MakeSnapshot() error { return n.snapshot() }

// WantSnapshot has one made in the background.
func (n *Node) WantSnapshot() { n.wantSnapshot() }

// SetClock puts another clock in the place of the one that other nodes are told of.
func (n *Node) SetClock(now func() time.Time) { n.clock.Store(&now) }

// ForgetLeader does what the end of its leader's connections does.
func (n *Node) ForgetLeader() { n.cons.Lost(n.cons.State().Leader) }

// SetMaxClients makes the place for clients small.
func (n *Node) SetMaxClients(most int64) { n.maxClients.Store(most) }
