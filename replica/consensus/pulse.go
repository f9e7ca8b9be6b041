package consensus

import (
	"sync/atomic"
	"time"
)

// Pulse tells whether the log goes on. Each of its goroutines can stand still for a reason of its own, and none of the
// others would show it: a leader whose disk stands still goes on to say that it leads.
type Pulse struct {
	Turn   time.Duration // since raft's loop began its last turn; a tick when all is well
	Unsync time.Duration // age of the oldest entries that the disk has not got; 0: none
	Apply  time.Duration // age of the oldest committed entries that the Machine has not taken; 0: none
}

// Pulse looks without waiting for anybody. A node that has stopped has none.
func (n *Node) Pulse() Pulse {
	select {
	case <-n.stop:
		return Pulse{}
	default:
	}
	return Pulse{Turn: time.Duration(now() - n.turned.Load()), Unsync: n.appends.age(), Apply: n.applies.age()}
}

// backlog knows the oldest message of a queue that is not done.
type backlog struct {
	waits atomic.Int64 // when the oldest one came that was not taken; 0: none
	taken atomic.Int64 // the same of those that were taken and are not done
}

// began is what times are counted from, by a clock that nobody sets.
var began = time.Now()

func now() int64 { return int64(time.Since(began)) + 1 } // never 0

// came needs the queue's mu, and so does took.
func (b *backlog) came() {
	if b.waits.Load() == 0 {
		b.waits.Store(now())
	}
}

func (b *backlog) took() { b.taken.Store(b.waits.Swap(0)) }

// done is for the taker: all that it took is done.
func (b *backlog) done() { b.taken.Store(0) }

func (b *backlog) age() time.Duration {
	oldest := b.taken.Load()
	if oldest == 0 {
		oldest = b.waits.Load()
	}
	if oldest == 0 {
		return 0
	}
	return time.Duration(now() - oldest)
}
