package consensus_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-dev/holdfast/replica/consensus"
)

// change rewrites a file.
func change(t *testing.T, fs vfs.FS, path string, how func([]byte) []byte) {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	out, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = out.Write(how(all))
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		t.Fatal(err)
	}
}

// newestLog is the log's file that is written; older ones may not be gone yet.
func newestLog(t *testing.T, fs vfs.FS) string {
	t.Helper()
	names, err := fs.List("/d/log")
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".log") })
	if len(names) == 0 {
		t.Fatal("there is no log")
	}
	return fs.PathJoin("/d/log", slices.Max(names))
}

// What is not what was written, or was written by a newer version, is refused: with the name of
// the file, and as what it is.
func TestWhatIsRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, fs vfs.FS)
		want   error
		says   []string
	}{
		{"a log of a newer format", func(t *testing.T, fs vfs.FS) {
			db, err := pebble.Open("/d/log", &pebble.Options{FS: fs})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Set([]byte("format"), []byte("2"), pebble.Sync), db.Close()); err != nil {
				t.Fatal(err)
			}
		}, consensus.ErrFormat, []string{"/d/log", `"2"`, `"1"`}},
		{"a snapshot of a newer format", func(t *testing.T, fs vfs.FS) {
			change(t, fs, "/d/snapshots/1.rdb", func(b []byte) []byte { return bytes.Replace(b, []byte("snapshot 1"), []byte("snapshot 2"), 1) })
		}, consensus.ErrFormat, []string{"/d/snapshots/1.rdb", "2"}},
		{"another file in a snapshot's place", func(t *testing.T, fs vfs.FS) {
			change(t, fs, "/d/snapshots/1.rdb", func([]byte) []byte { return []byte("REDIS0010 and so on, and so on, and so on") })
		}, consensus.ErrDamaged, []string{"/d/snapshots/1.rdb", "REDIS0010"}},
		{"a bit of a snapshot", func(t *testing.T, fs vfs.FS) {
			change(t, fs, "/d/snapshots/1.rdb", func(b []byte) []byte { b[21] ^= 1; return b })
		}, consensus.ErrDamaged, []string{"/d/snapshots/1.rdb", "checksum"}},
		{"half a snapshot", func(t *testing.T, fs vfs.FS) {
			change(t, fs, "/d/snapshots/1.rdb", func(b []byte) []byte { return b[:len(b)-3] })
		}, consensus.ErrDamaged, []string{"/d/snapshots/1.rdb"}},
		{"an empty snapshot", func(t *testing.T, fs vfs.FS) {
			change(t, fs, "/d/snapshots/1.rdb", func([]byte) []byte { return nil })
		}, consensus.ErrDamaged, []string{"/d/snapshots/1.rdb", "0 bytes"}},
		{"no snapshot", func(t *testing.T, fs vfs.FS) {
			if err := fs.Remove("/d/snapshots/1.rdb"); err != nil {
				t.Fatal(err)
			}
		}, consensus.ErrDamaged, []string{"/d/snapshots/1.rdb"}},
		{"a bit in the middle of the log", func(t *testing.T, fs vfs.FS) {
			damage(t, fs, newestLog(t, fs))
		}, consensus.ErrDamaged, []string{"/d/log", "invalid chunk"}},
		{"a bit near the end of the log", func(t *testing.T, fs vfs.FS) {
			change(t, fs, newestLog(t, fs), func(b []byte) []byte {
				b[bytes.Index(b, fmt.Appendf(nil, "%1000d", 38))] ^= 1
				return b
			})
		}, consensus.ErrDamaged, []string{"/d/log", "had come to"}},
		{"the end of the log, which had been there for long", func(t *testing.T, fs vfs.FS) {
			change(t, fs, newestLog(t, fs), func(b []byte) []byte { return b[:bytes.Index(b, fmt.Appendf(nil, "%1000d", 38))] })
		}, consensus.ErrDamaged, []string{"/d/log", "had come to"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			n := w.first()
			for i := range 40 {
				w.said(n, fmt.Sprintf("%1000d", i))
			}
			w.close(n)
			c.change(t, n.fs)
			got, err := consensus.Open(w.config(1, n.fs, &journal{}))
			if !errors.Is(err, c.want) {
				if err == nil {
					_ = got.Close()
				}
				t.Fatalf("got %v", err)
			}
			for _, word := range c.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q is not in: %v", word, err)
				}
			}
		})
	}
}

// said proposes and waits until that is on disk.
func (w *world) said(n *node, word string) {
	w.t.Helper()
	have := len(n.log.words())
	after := func() []string { words := n.log.words(); return words[min(have, len(words)):] } // of another start's, some may be told anew
	if err := w.propose(n, word); err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "told "+word, func() bool { return slices.Contains(after(), word) })
}

// The log may end anywhere behind what was synced. What is whole is kept, the rest is cut.
func TestTornTail(t *testing.T) {
	w := newWorld(t, 1)
	n := w.first()
	for i := range 3 {
		w.said(n, fmt.Sprint("word ", i))
	}
	before := n.fs.CrashClone(vfs.CrashCloneCfg{})
	w.said(n, "the last one")
	after := n.fs.CrashClone(vfs.CrashCloneCfg{})
	w.close(n)
	size := func(fs vfs.FS) int {
		info, err := fs.Stat(newestLog(t, fs))
		if err != nil {
			t.Fatal(err)
		}
		return int(info.Size())
	}
	from, to := size(before), size(after)
	if to-from < 20 || to-from > 1000 {
		t.Fatalf("the last word takes %d bytes", to-from)
	}
	for cut := to; cut >= from; cut -= 1 + (to-from)/20 {
		fs := after.CrashClone(vfs.CrashCloneCfg{})
		change(t, fs, newestLog(t, fs), func(b []byte) []byte { return b[:cut] })
		got := w.open(1, fs)
		if err := w.propose(w.leader(), "goes on"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it goes on", func() bool { return slices.Contains(got.log.words(), "goes on") })
		words, want := got.log.words(), []string{"word 0", "word 1", "word 2", "goes on"}
		if cut == to {
			want = slices.Insert(want, 3, "the last one")
		}
		if !slices.Equal(words, want) && !(cut < to && slices.Equal(words, slices.Insert(want, 3, "the last one"))) {
			t.Fatalf("cut at %d of %d to %d: %q", cut, from, to, words)
		}
		w.close(got)
	}
}

// A crash leaves any part of what was not synced, in any order of its blocks.
func TestUnsyncedTail(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	w := newWorld(t, seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	n := w.first()
	var told []string
	for round := range 20 {
		for i := range 30 {
			_ = w.propose(n, fmt.Sprintf("r%d-%d %s", round, i, strings.Repeat("x", rng.IntN(5000))))
		}
		eventually(t, "some are told", func() bool { return len(n.log.words()) > len(told) })
		told = n.log.words()
		fs := n.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		w.close(n)
		n = w.open(1, fs)
		w.leader()
		eventually(t, "what was told", func() bool { return len(n.log.words()) >= len(told) })
		if got := n.log.words(); !slices.Equal(got[:len(told)], told) {
			t.Fatalf("round %d: %d words became others", round, len(told))
		}
	}
}

// smallDisk says that it is full, for all or until the reserve is given up.
type smallDisk struct {
	vfs.FS
	full, wholly atomic.Bool
}

func newSmallDisk(fs vfs.FS) *smallDisk {
	d := &smallDisk{}
	d.FS = errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch {
		case op.Kind == errorfs.OpRemove && strings.HasSuffix(op.Path, "/reserve"):
			d.full.Store(d.wholly.Load())
		case !d.full.Load():
		case op.Kind == errorfs.OpFileWrite, op.Kind == errorfs.OpFilePreallocate, op.Kind == errorfs.OpCreate, op.Kind == errorfs.OpFileSync:
			return syscall.ENOSPC
		}
		return nil
	}))
	return d
}

// When the disk is full the log gives up its reserve and goes on; when that is used up too the node
// stops and says why. Nothing is lost: with room it goes on.
func TestFullDisk(t *testing.T) {
	w := newWorld(t, 1)
	n := w.first()
	w.said(n, "first")
	w.close(n)
	disk := newSmallDisk(n.fs)
	log := &journal{}
	cfg := w.config(1, disk, log)
	cfg.ReserveBytes = 1 << 20
	open := func() *node {
		t.Helper()
		got, err := consensus.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "leads", func() bool { return got.State().Leads })
		return &node{Node: got, id: 1, fs: n.fs, log: log}
	}
	n = open()
	if got := n.Room(); got.Reserve != 1<<20 {
		t.Fatalf("it has no reserve: %+v", got)
	}
	disk.full.Store(true)
	w.said(n, "from the reserve")
	if got := n.Room(); got.Reserve != 0 {
		t.Fatalf("the reserve was not given up: %+v", got)
	}
	if err := n.Replenish(); err != nil || n.Room().Reserve != 1<<20 {
		t.Fatalf("the reserve is not there again: %v", err)
	}
	disk.wholly.Store(true)
	disk.full.Store(true)
	_ = w.propose(n, "open")
	select {
	case <-n.Stopped():
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on without room")
	}
	if !errors.Is(n.Failed(), consensus.ErrFull) {
		t.Fatalf("it says %v", n.Failed())
	}
	_ = n.Close() // its failure is told
	if _, err := consensus.Open(cfg); !errors.Is(err, consensus.ErrFull) {
		t.Fatalf("without room it opens with %v", err)
	}
	disk.wholly.Store(false)
	disk.full.Store(false)
	n = open()
	defer func() { _ = n.Close() }()
	w.said(n, "goes on")
	if got := n.log.words(); len(got) < 3 || got[0] != "first" || got[1] != "from the reserve" || got[len(got)-1] != "goes on" {
		t.Fatalf("it has %q", got)
	}
}

// The log behind a snapshot is given up, but for what nodes that are not far behind can be sent.
func TestLogIsCutBehindSnapshots(t *testing.T) {
	w := newWorld(t, 1)
	n := w.first()
	w.close(n)
	cfg := w.config(1, n.fs, n.log)
	cfg.KeepBytes = 10_000
	open, err := consensus.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n = &node{Node: open, id: 1, fs: n.fs, log: n.log}
	defer func() { _ = n.Close() }()
	eventually(t, "leads", func() bool { return n.State().Leads })
	for i := range 50 {
		w.said(n, fmt.Sprintf("%1000d", i))
	}
	at := n.State().Applied
	if err := n.SaveSnapshot(at, nil, func(f io.Writer) error { _, err := io.WriteString(f, "copy"); return err }); err != nil {
		t.Fatal(err)
	}
	w.said(n, "more")
	eventually(t, "cut", func() bool { return n.State().First > at-12 })
	if first := n.State().First; first > at {
		t.Errorf("nothing is kept behind the snapshot at %d: the log begins at %d", at, first)
	}
	if _, err := n.Entries(5, 6, 1); !errors.Is(err, consensus.ErrCompacted) {
		t.Errorf("what was cut: %v", err)
	}
}

// What a disk did not take nobody is told to be there: Pebble reports it beside the batch, which seems
// to have been committed.
func TestNothingIsAcknowledgedAfterAFailedSync(t *testing.T) {
	for what, kinds := range map[string][]errorfs.OpKind{
		"a sync":  {errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo},
		"a write": {errorfs.OpFileWrite},
	} {
		w := newWorld(t, 7)
		w.cluster(3)
		leader := w.leader()
		n := w.nodes[leader.id%3+1]
		w.said(leader, "first")
		w.close(n)
		var broken atomic.Bool
		fs := errorfs.Wrap(n.fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if broken.Load() && slices.Contains(kinds, op.Kind) && strings.HasSuffix(op.Path, ".log") {
				return syscall.EIO
			}
			return nil
		}))
		log := &journal{}
		got, err := consensus.Open(w.config(n.id, fs, log))
		if err != nil {
			t.Fatal(err)
		}
		n = &node{Node: got, id: n.id, fs: n.fs, log: log}
		w.mu.Lock()
		w.nodes[n.id] = n
		w.mu.Unlock()
		w.said(leader, "second")
		eventually(t, "caught up", func() bool { return n.State().Applied == leader.State().Applied && leader.State().Leads })
		last := n.State().Last
		var lied atomic.Bool
		w.mu.Lock()
		w.hold = func(m *pb.Message) bool {
			if m.GetFrom() == n.id && m.GetType() == pb.MsgAppResp && !m.GetReject() && m.GetIndex() > last {
				lied.Store(true)
			}
			return false
		}
		broken.Store(true)
		w.mu.Unlock()
		for range 3 {
			_ = w.propose(w.leader(), "third")
		}
		select {
		case <-n.Stopped():
		case <-time.After(10 * time.Second):
			t.Fatalf("%s fails: it goes on", what)
		}
		w.close(n) // and all that it had to say is said
		if lied.Load() {
			t.Errorf("%s fails: it says that it has what its disk did not take", what)
		}
	}
}

// While the log is being cut, what goes is gone: it is not taken for damage.
func TestReadWhileTheLogIsCut(t *testing.T) {
	w := newWorld(t, 1)
	n := w.first()
	w.close(n)
	var slow atomic.Bool
	syncs, goOn := make(chan struct{}, 1), make(chan struct{})
	cfg := w.config(1, errorfs.Wrap(n.fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSyncData && strings.HasSuffix(op.Path, ".log") && slow.CompareAndSwap(true, false) {
			syncs <- struct{}{}
			<-goOn
		}
		return nil
	})), n.log)
	cfg.KeepBytes, cfg.CacheBytes = 1, 10_000
	open, err := consensus.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n = &node{Node: open, id: 1, fs: n.fs, log: n.log}
	defer func() { _ = n.Close() }()
	eventually(t, "leads", func() bool { return n.State().Leads })
	for i := range 30 {
		w.said(n, fmt.Sprintf("%1000d", i))
	}
	slow.Store(true)
	cut := make(chan error, 1)
	go func() {
		cut <- n.SaveSnapshot(n.State().Applied, nil, func(f io.Writer) error { _, err := io.WriteString(f, "copy"); return err })
	}()
	<-syncs
	es, err := n.Entries(5, n.State().Last+1, 1<<20)
	close(goOn)
	if !errors.Is(err, consensus.ErrCompacted) && len(es) == 0 {
		t.Errorf("what is being cut: %v", err)
	}
	if err := <-cut; err != nil {
		t.Fatal(err)
	}
}
