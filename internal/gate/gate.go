// Package gate refuses work that would not be done in time.
//
// Under more load than it can bear a server that takes everything serves everybody late, which is
// nobody: clients have given up when their answers come. What it can bear is not known
// beforehand, but it can be counted. By Little's law, work in flight is throughput times the
// time that each piece takes; so with a target for that time, what may be in flight is what was
// done per second lately times the target. The rest is refused at once, which costs next to
// nothing, and those in flight are done in time.
//
// It looks at work, not at processors: a pool that is saturated lets them idle.
package gate

import (
	"sync/atomic"
	"time"
)

const (
	// window is how long work is counted before the limit is set anew.
	window = 100 * time.Millisecond
	// least may always be in flight: a limit from a moment in which everything stood still must
	// not last.
	least = 16
	// first is the limit until something was counted: a sale opens with a rush.
	first = 512
)

// Gate bounds the work in flight. The zero value is not ready; see New.
type Gate struct {
	target time.Duration

	inFlight atomic.Int64
	limit    atomic.Int64
	done     atomic.Int64 // in this window
	peak     atomic.Int64 // most in flight, or refused there, in this window
	ends     atomic.Int64 // of this window, ns since start
	start    time.Time
}

// New makes a gate behind which work takes about target when there is too much of it.
func New(target time.Duration) *Gate {
	g := &Gate{target: target, start: time.Now()}
	g.limit.Store(first)
	g.ends.Store(int64(window))
	return g
}

// Enter says whether work may begin; then Leave must follow.
func (g *Gate) Enter() bool {
	g.turn()
	n := g.inFlight.Add(1)
	for peak := g.peak.Load(); n > peak && !g.peak.CompareAndSwap(peak, n); {
		peak = g.peak.Load()
	}
	if n <= g.limit.Load() {
		return true
	}
	g.inFlight.Add(-1)
	return false
}

// Leave ends work. Done is whether it came to a result: what was given up is no throughput.
func (g *Gate) Leave(done bool) {
	g.inFlight.Add(-1)
	if done {
		g.done.Add(1)
	}
	g.turn()
}

// turn sets the limit when a window is over. It falls only when more was asked for than that:
// who did little because little was asked for can still do much.
func (g *Gate) turn() { g.turnAt(int64(time.Since(g.start))) }

func (g *Gate) turnAt(now int64) {
	ends := g.ends.Load()
	if now < ends || !g.ends.CompareAndSwap(ends, now+int64(window)) {
		return
	}
	lasted := now - ends + int64(window)
	limit := max(least, g.done.Swap(0)*int64(g.target)/lasted, g.limit.Load()/2) // one slow moment is not a trend
	if peak := g.peak.Swap(g.inFlight.Load()); peak > limit || limit > g.limit.Load() {
		g.limit.Store(limit)
	}
}

// Limit is how much may be in flight now.
func (g *Gate) Limit() int64 { return g.limit.Load() }

// InFlight is how much is.
func (g *Gate) InFlight() int64 { return g.inFlight.Load() }
