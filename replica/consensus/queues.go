package consensus

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

// proposal belongs to the term in which it was made.
type proposal struct {
	term uint64
	data []byte
	at   time.Time
}

// inbox is what the loop has to look at.
type inbox struct {
	wake chan struct{} // one slot

	mu     sync.Mutex
	got    arrivals
	queued int           // bytes of proposals
	bytes  int           // of entries in got.steps
	room   chan struct{} // closed and replaced when queued falls
}

type arrivals struct {
	steps     []*pb.Message
	calls     []func()
	proposals []proposal
	reads     []read
}

func (b *inbox) init() { b.wake, b.room = make(chan struct{}, 1), make(chan struct{}) }

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// What bounds messages that wait, in number and in bytes of their entries; raft sends again what is
// lost.
const (
	maxSteps     = 16 << 10
	maxStepBytes = 4 * maxInflight
)

func (b *inbox) step(ms []*pb.Message) {
	b.mu.Lock()
	for _, m := range ms {
		own := m.GetFrom() > 1<<63 || m.GetType() == pb.MsgStorageAppendResp || m.GetType() == pb.MsgStorageApplyResp || m.GetFrom() == m.GetTo()
		size := 0
		for _, e := range m.GetEntries() {
			size += len(e.GetData())
		}
		if own || len(b.got.steps) < maxSteps && b.bytes+size <= maxStepBytes {
			b.got.steps = append(b.got.steps, m)
			b.bytes += size
		}
	}
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) call(f func()) {
	b.mu.Lock()
	b.got.calls = append(b.got.calls, f)
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) read(term uint64, done func(bool)) {
	b.mu.Lock()
	b.got.reads = append(b.got.reads, read{term, done, time.Now()})
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) propose(ctx context.Context, stop <-chan struct{}, p proposal) error {
	for {
		b.mu.Lock()
		if b.queued == 0 || b.queued+len(p.data) <= maxQueued {
			b.queued += len(p.data)
			b.got.proposals = append(b.got.proposals, p)
			b.mu.Unlock()
			b.signal()
			return nil
		}
		room := b.room
		b.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		case <-stop:
			return ErrClosed
		}
	}
}

func (b *inbox) take() arrivals {
	b.mu.Lock()
	defer b.mu.Unlock()
	got := b.got
	b.got, b.bytes = arrivals{}, 0
	return got
}

// refused puts proposals back in front, and makes room for what was taken.
func (b *inbox) refused(ps []proposal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got.proposals = append(ps, b.got.proposals...)
	left := 0
	for _, p := range b.got.proposals {
		left += len(p.data)
	}
	if left < b.queued {
		close(b.room)
		b.room = make(chan struct{})
	}
	b.queued = left
}

// queue hands messages from the loop to one goroutine, which takes all that are there.
type queue struct {
	wake chan struct{}
	backlog
	mu sync.Mutex
	ms []*pb.Message
}

func (q *queue) init() { q.wake = make(chan struct{}, 1) }

func (q *queue) put(m *pb.Message) {
	q.mu.Lock()
	q.ms = append(q.ms, m)
	q.came()
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns nil when the node stops. Whoever takes says when it is done.
func (q *queue) take(stop <-chan struct{}) []*pb.Message {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		q.mu.Lock()
		ms := q.ms
		q.ms = nil
		if len(ms) > 0 {
			q.took()
		}
		q.mu.Unlock()
		if len(ms) > 0 {
			return ms
		}
		select {
		case <-stop:
			return nil
		case <-q.wake:
		}
	}
}
