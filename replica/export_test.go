package replica

import "time"

// MakeSnapshot makes one now.
func (n *Node) MakeSnapshot() error { return n.snapshot() }

// WantSnapshot has one made in the background.
func (n *Node) WantSnapshot() { n.wantSnapshot() }

// SetClock puts another clock in the place of the one that other nodes are told of.
func (n *Node) SetClock(now func() time.Time) { n.clock.Store(&now) }
