package consensus_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-dev/holdfast/replica/consensus"
)

// world is a cluster in one process whose network and disks the test rules.
type world struct {
	t      *testing.T
	saving sync.Mutex
	mu     sync.Mutex
	rng    *rand.Rand
	nodes  map[uint64]*node
	cut    map[[2]uint64]bool // from, to
	loss   float64            // part of the messages that is lost; the same part comes twice
	late   time.Duration      // the most that a message is late
	hold   func(m *pb.Message) bool
	held   []*pb.Message
	wg     sync.WaitGroup
}

type node struct {
	*consensus.Node
	id  uint64
	fs  *vfs.MemFS
	log *journal
}

// journal is a Machine that writes down what it is told.
type journal struct {
	mu      sync.Mutex
	applied []consensus.Entry
	base    consensus.Snapshot
	members []consensus.Member
}

func (j *journal) Apply(es []consensus.Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.applied = append(j.applied, es...)
	return nil
}

func (j *journal) Restore(s consensus.Snapshot) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.base, j.applied = s, nil
	return nil
}

func (j *journal) Members(m []consensus.Member) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.members = m
}

// words are the entries with data, in order.
func (j *journal) words() (out []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.applied {
		if len(e.Data) > 0 {
			out = append(out, string(e.Data))
		}
	}
	return out
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	t.Logf("seed %d", seed)
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), nodes: map[uint64]*node{}, cut: map[[2]uint64]bool{}}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			w.close(n)
		}
		w.wg.Wait()
	})
	return w
}

func (w *world) config(id uint64, fs vfs.FS, m consensus.Machine) consensus.Config {
	return consensus.Config{ID: id, Dir: "/d", FS: fs, Machine: m, Send: w.send, Tick: 5 * time.Millisecond,
		WantSnapshot: func() { w.snapshot(id) },
		Logger:       slog.New(slog.DiscardHandler)}
}

// first makes a cluster of one.
func (w *world) first() *node {
	w.t.Helper()
	fs := vfs.NewCrashableMem()
	c := w.config(1, fs, &journal{})
	err := consensus.Bootstrap(c, []byte("one"), []byte("base"), func(f io.Writer) error { _, err := f.Write([]byte("file")); return err })
	if err != nil {
		w.t.Fatal(err)
	}
	n := w.open(1, fs)
	w.leader()
	return n
}

// snapshot makes one in the background, at what the node has applied.
func (w *world) snapshot(id uint64) {
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		w.saving.Lock()
		defer w.saving.Unlock()
		w.mu.Lock()
		n := w.nodes[id]
		w.mu.Unlock()
		if n != nil {
			_ = n.SaveSnapshot(n.State().Applied, []byte("later"), func(f io.Writer) error { _, err := f.Write([]byte("file")); return err })
		}
	}()
}

func (w *world) open(id uint64, fs *vfs.MemFS) *node {
	w.t.Helper()
	n := &node{id: id, fs: fs, log: &journal{}}
	var err error
	if n.Node, err = consensus.Open(w.config(id, fs, n.log)); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.nodes[id] = n
	w.mu.Unlock()
	return n
}

func (w *world) close(n *node) {
	w.mu.Lock()
	delete(w.nodes, n.id)
	w.mu.Unlock()
	if err := n.Close(); err != nil && n.Failed() == nil {
		w.t.Error(err)
	}
}

// cluster makes n voters.
func (w *world) cluster(n int) {
	w.t.Helper()
	w.first()
	for id := uint64(2); id <= uint64(n); id++ {
		w.open(id, vfs.NewCrashableMem())
		ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
		if err := w.leader().Add(ctx, id, fmt.Append(nil, "node ", id)); err != nil {
			w.t.Fatal(err)
		}
		eventually(w.t, "added", func() bool { return w.leader().Promote(ctx, id) == nil })
		eventually(w.t, "it has the log", func() bool {
			return slices.ContainsFunc(w.leader().Progress(ctx), func(p consensus.Progress) bool { return p.ID == id && p.Sound })
		})
		cancel()
	}
}

func (w *world) leader() *node {
	w.t.Helper()
	var found *node
	eventually(w.t, "a leader", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		found = nil
		for _, n := range w.nodes {
			if s := n.State(); s.Leads && (found == nil || s.Term > found.State().Term) {
				found = n
			}
		}
		return found != nil
	})
	return found
}

func (w *world) send(ms []*pb.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range ms {
		if w.hold != nil && w.hold(m) {
			w.held = append(w.held, m)
			continue
		}
		if w.cut[[2]uint64{m.GetFrom(), m.GetTo()}] || w.rng.Float64() < w.loss {
			continue
		}
		copies := 1
		if w.rng.Float64() < w.loss {
			copies = 2
		}
		for range copies {
			w.deliver(m, time.Duration(w.rng.Float64()*float64(w.late)))
		}
	}
}

// deliver needs mu.
func (w *world) deliver(m *pb.Message, after time.Duration) {
	w.wg.Add(1)
	time.AfterFunc(after, func() {
		defer w.wg.Done()
		w.mu.Lock()
		from, to := w.nodes[m.GetFrom()], w.nodes[m.GetTo()]
		w.mu.Unlock()
		if to == nil {
			return
		}
		m := proto.Clone(m).(*pb.Message)
		if m.GetType() != pb.MsgSnap {
			to.Step(m)
			return
		}
		ok := false
		if from != nil {
			if f, _, err := from.SnapshotFile(m.GetSnapshot().GetMetadata().GetIndex()); err == nil {
				ok = to.ReceiveSnapshot(m, f) == nil
				_ = f.Close()
			}
			from.SnapshotSent(m.GetTo(), ok)
		}
	})
}

func (w *world) partition(id uint64, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for other := range w.nodes {
		w.cut[[2]uint64{id, other}] = on
		w.cut[[2]uint64{other, id}] = on
	}
}

func (w *world) propose(n *node, word string) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
	defer cancel()
	return n.Propose(ctx, n.State().Term, []byte(word))
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}
