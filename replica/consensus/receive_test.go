package consensus_test

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-dev/holdfast/replica/consensus"
)

// snapshotOf is the message by which another node, which leads in that term, sends a snapshot.
func snapshotOf(t *testing.T, to *node, index, term uint64, data string) *pb.Message {
	t.Helper()
	b, err := json.Marshal(map[string]any{"members": []consensus.Member{{ID: 9, Voter: true}, {ID: to.id}}, "data": []byte(data)})
	if err != nil {
		t.Fatal(err)
	}
	conf := pb.EnsureConfState(&pb.ConfState{Voters: []uint64{9}, Learners: []uint64{to.id}})
	return &pb.Message{Type: pb.MsgSnap.Enum(), From: new(uint64(9)), To: new(to.id), Term: &term,
		Snapshot: &pb.Snapshot{Data: b, Metadata: &pb.SnapshotMetadata{Index: &index, Term: &term, ConfState: conf}}}
}

// contents of the snapshot that a node has at index.
func contents(t *testing.T, n *node, index uint64) string {
	t.Helper()
	f, _, err := n.SnapshotFile(index)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A snapshot may come twice at the same time, from a leader whose first connection was given up or from two that
// lead one after the other. The file is whole, and belongs to the message that was taken.
func TestTwoSnapshotsAtOnce(t *testing.T) {
	w := newWorld(t, 1)
	n := w.open(1, vfs.NewCrashableMem())
	began, taken := make(chan struct{}), make(chan struct{})
	second := make(chan error, 1)
	go func() {
		second <- n.ReceiveSnapshot(snapshotOf(t, n, 50, 2, "b"), &waiting{"b", 20, func(left int) {
			if left == 10 {
				close(began)
				<-taken
			}
		}})
	}()
	err := n.ReceiveSnapshot(snapshotOf(t, n, 50, 1, "a"), &waiting{"a", 20, func(left int) {
		if left == 10 {
			<-began
		}
	}})
	if err != nil {
		t.Error(err)
	}
	eventually(t, "it is taken", func() bool { return n.State().Applied == 50 })
	if got := contents(t, n, 50); got != strings.Repeat("a", 20) {
		t.Errorf("the file has %q", got)
	}
	close(taken)
	if err := <-second; err != nil {
		t.Error(err)
	}
	w.close(n)
	n = w.open(1, n.fs)
	if base, file := string(n.log.base.Data), contents(t, n, 50); file != strings.Repeat(base, 20) {
		t.Errorf("it is told %q, and the file has %q", base, file)
	}
}

// waiting is a file of which each byte is told before it comes.
type waiting struct {
	piece string
	left  int
	tell  func(left int)
}

func (r *waiting) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	r.tell(r.left)
	r.left--
	return copy(p, r.piece), nil
}

// What the log begins with is kept as it is: a second copy for the same entry has another offset.
func TestASnapshotIsNotReplacedByAnotherOfItsEntry(t *testing.T) {
	w := newWorld(t, 1)
	n := w.first()
	w.said(n, "word")
	at := n.State().Applied
	for _, text := range []string{"first", "second"} {
		if err := n.SaveSnapshot(at, []byte(text), func(f io.Writer) error { _, err := io.WriteString(f, text); return err }); err != nil {
			t.Fatal(err)
		}
	}
	if got := contents(t, n, at); got != "first" {
		t.Errorf("the file has %q", got)
	}
	w.close(n)
	n = w.open(1, n.fs)
	if base, file := string(n.log.base.Data), contents(t, n, at); base != file {
		t.Errorf("it is told %q, and the file has %q", base, file)
	}
}

// A large file goes to the disk as it is written: all of it at its end would hold up the syncs of the log.
func TestSnapshotsGoToDiskInSteps(t *testing.T) {
	w := newWorld(t, 1)
	n := w.first()
	w.said(n, "word")
	w.close(n)
	var dirty, most atomic.Int64
	cfg := w.config(1, errorfs.Wrap(n.fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.Contains(op.Path, "snapshots") {
			switch op.Kind {
			case errorfs.OpFileWrite: // of 64 KiB each
				most.Store(max(most.Load(), dirty.Add(64<<10)))
			case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
				dirty.Store(0)
			}
		}
		return nil
	})), &journal{})
	got, err := consensus.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = got.Close() }()
	eventually(t, "leads", func() bool { return got.State().Leads && got.State().Applied == got.State().Last })
	body := func(f io.Writer) error {
		for range 512 {
			if _, err := f.Write(make([]byte, 64<<10)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := got.SaveSnapshot(got.State().Applied, nil, body); err != nil {
		t.Fatal(err)
	}
	if most.Load() > 8<<20 {
		t.Errorf("%d MiB were written before any of it went to the disk", most.Load()>>20)
	}
}

// Whoever makes a snapshot, or reads, while the node is closed is told so.
func TestUseOfAClosedLog(t *testing.T) {
	w := newWorld(t, 1)
	n := w.first()
	w.close(n)
	cfg := w.config(1, n.fs, n.log)
	cfg.CacheBytes = 1
	got, err := consensus.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n = &node{Node: got, id: 1, fs: n.fs, log: n.log}
	eventually(t, "leads", func() bool { return n.State().Leads })
	for range 3 {
		w.said(n, "word")
	}
	begun, closed, saved := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		saved <- n.SaveSnapshot(n.State().Applied, nil, func(io.Writer) error { close(begun); <-closed; return nil })
	}()
	<-begun
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	close(closed)
	if err := <-saved; !errors.Is(err, consensus.ErrClosed) {
		t.Errorf("a snapshot: %v", err)
	}
	if _, err := n.Entries(2, 4, 1000); !errors.Is(err, consensus.ErrClosed) {
		t.Errorf("entries: %v", err)
	}
}
