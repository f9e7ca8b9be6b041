package consensus_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-dev/holdfast/replica/consensus"
)

// stopper holds up whoever passes it while it is on.
type stopper struct{ gate atomic.Pointer[chan struct{}] }

func (s *stopper) pass() {
	if gate := s.gate.Load(); gate != nil {
		<-*gate
	}
}

// on returns what lets go on.
func (s *stopper) on() (off func()) {
	gate := make(chan struct{})
	s.gate.Store(&gate)
	return func() { s.gate.Store(nil); close(gate) }
}

// machineOf is a journal that can be held up.
type machineOf struct {
	*journal
	held stopper
}

func (m *machineOf) Apply(es []consensus.Entry) error {
	m.held.pass()
	return m.journal.Apply(es)
}

// Each of the log's goroutines that stands still is seen, and by its own name; when it goes on that is seen too.
func TestPulse(t *testing.T) {
	const still = 300 * time.Millisecond
	w := newWorld(t, 1)
	n := w.first()
	w.close(n)
	var sync, send stopper
	machine := &machineOf{journal: n.log}
	cfg := w.config(1, errorfs.Wrap(n.fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSyncData && strings.HasSuffix(op.Path, ".log") {
			sync.pass()
		}
		return nil
	})), machine)
	cfg.Send = func(ms []*pb.Message) { send.pass(); w.send(ms) }
	got, err := consensus.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n = &node{Node: got, id: 1, fs: n.fs, log: n.log}
	w.mu.Lock()
	w.nodes[1] = n
	w.mu.Unlock()
	w.leader()
	other := w.open(2, vfs.NewCrashableMem())
	if err := n.Add(t.Context(), other.id, nil); err != nil { // somebody to send heartbeats to
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		hold *stopper
		age  func(consensus.Pulse) time.Duration
	}{
		{"the loop", &send, func(p consensus.Pulse) time.Duration { return p.Turn }},
		{"the disk", &sync, func(p consensus.Pulse) time.Duration { return p.Unsync }},
		{"the machine", &machine.held, func(p consensus.Pulse) time.Duration { return p.Apply }},
	} {
		eventually(t, "all is well before "+c.name, func() bool {
			p := n.Pulse()
			return p.Turn < still && p.Unsync < still && p.Apply < still
		})
		off := c.hold.on()
		_ = w.propose(n, "word")
		eventually(t, c.name+" stands still", func() bool { return c.age(n.Pulse()) > still })
		if c.hold != &send {
			eventually(t, "the loop goes on", func() bool { p := n.Pulse(); return p.Turn < still && c.age(p) > still })
		}
		off()
		eventually(t, c.name+" goes on", func() bool { return c.age(n.Pulse()) < still })
	}
	// What is done is forgotten: nothing is old in a log to which nothing comes.
	eventually(t, "at rest", func() bool { p := n.Pulse(); return p.Unsync == 0 && p.Apply == 0 })
}
