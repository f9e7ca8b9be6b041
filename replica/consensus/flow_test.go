package consensus_test

import (
	"strings"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
)

// A follower that comes back gets what it lacks in portions: raft's loop reads each from the disk before it does
// anything else, and heartbeats are its to send.
func TestAReturningFollowerDoesNotHoldTheLoop(t *testing.T) {
	w := newWorld(t, 3)
	w.cluster(3)
	l := w.leader()
	lag := w.nodes[l.id%3+1]
	w.close(lag)
	word := strings.Repeat("x", 256<<10)
	for range 160 { // 40 MiB
		w.said(l, word)
	}
	var most int
	w.mu.Lock()
	w.batch = func(ms []*pb.Message) {
		size := 0
		for _, m := range ms {
			if m.GetTo() == lag.id {
				for _, e := range m.GetEntries() {
					size += len(e.GetData())
				}
			}
		}
		most = max(most, size)
	}
	w.mu.Unlock()
	lag = w.open(lag.id, lag.fs)
	eventually(t, "it has all", func() bool { return len(lag.log.words()) >= 160 })
	w.mu.Lock()
	defer w.mu.Unlock()
	if most > 9<<20 || most == 0 {
		t.Errorf("%d MiB in one turn of the loop", most>>20)
	}
}
