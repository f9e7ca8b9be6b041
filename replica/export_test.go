package replica

import "time"

// MakeSnapshot makes one now.
func (n *Node) MakeSnapshot() error { return n.snapshot() }

// SetClock puts another clock in the place of the one that other nodes are told of.
func (n *Node) SetClock(now func() time.Time) { n.clock.Store(&now) }
