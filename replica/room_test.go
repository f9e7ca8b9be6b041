package replica_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-dev/holdfast/replica"
)

// roomFS says that so much is free.
type roomFS struct {
	vfs.FS
	free atomic.Int64
}

func newRoomFS() *roomFS {
	fs := &roomFS{FS: vfs.Default}
	fs.free.Store(1 << 40)
	return fs
}

func (fs *roomFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: uint64(fs.free.Load())}, nil
}

// newRoomWorld has nodes whose disks the test can make small.
func newRoomWorld(t *testing.T, nodes int) (*world, []*roomFS) {
	t.Helper()
	var disks []*roomFS
	w := newWorldOn(t, nodes, func() vfs.FS {
		disks = append(disks, newRoomFS())
		return disks[len(disks)-1]
	})
	return w, disks
}

// refusal is how a client's write is answered by the node that leads.
func (w *world) refusal(words ...string) string {
	w.t.Helper()
	return w.refusalOf(w.leader(), words...)
}

func (w *world) refusalOf(node int, words ...string) string {
	c, err := w.dial(node)
	if err != nil {
		return err.Error()
	}
	defer c.close()
	answer := ""
	for _, line := range words {
		if answer, err = c.do(strings.Fields(line)...); err != nil {
			return err.Error()
		}
	}
	return answer
}

// Below the reserve clients' writes are refused, also in scripts and transactions. Reads go on, and so does what the
// engine writes by itself. With room it takes writes again.
func TestNoRoomForWrites(t *testing.T) {
	t.Parallel()
	w, disks := newRoomWorld(t, 1)
	w.do("SET", "stays", "v")
	w.do("SET", "goes", "v", "PX", "1500")
	disks[0].free.Store(testReserve - 1)
	w.eventually("writes are refused", func() bool { return strings.HasPrefix(w.refusal("SET x v"), "-NOREPLICAS") })
	for _, words := range [][]string{{"DEL stays"}, {"LPUSH l 1"}, {"MULTI", "SET x 1"}, {"EXPIRE stays 1"},
		{"EVAL return(redis.call('SET','x','1')) 0"}, {"FLUSHALL"}, {"XADD s * a 1"}, {"BLPOP l 1"}} {
		if got := w.refusal(words...); !strings.Contains(got, "NOREPLICAS") && !strings.Contains(got, "Not enough good replicas") {
			t.Errorf("%v: %s", words, got)
		}
	}
	before := w.status()
	if !before.Disk.Low || !before.Disk.Refuses || before.Disk.Without != 1 {
		t.Errorf("its status says %+v", before.Disk)
	}
	for series, want := range map[string]float64{"disk_low": 1, "writes_refused": 1, "write_refusals_total": 1, "disk_free_bytes": testReserve - 1} {
		w.until(0, series, is(want))
	}
	for _, c := range []struct{ words, want string }{{"GET stays", "v"}, {"EVAL return(redis.call('GET','stays')) 0", "v"}, {"PUBLISH c m", ":0"}} {
		if got := w.refusal(c.words); got != c.want {
			t.Errorf("%s: %s", c.words, got)
		}
	}
	w.eventually("what expires is gone, and that is committed", func() bool {
		return w.refusal("EXISTS goes") == ":0" && w.status().Safe > before.Safe
	})
	disks[0].free.Store(testReserve + testReserve/8) // not enough for a change of mind
	if got := w.refusal("SET x v"); !strings.HasPrefix(got, "-NOREPLICAS") {
		t.Errorf("with little more room: %s", got)
	}
	disks[0].free.Store(10 * testReserve)
	w.eventually("writes are taken", func() bool { return w.refusal("SET x v") == "+OK" })
	w.eventually("which is seen", func() bool { return !w.status().Disk.Refuses })
}

// A node without room does not lead while others have room, and costs no write. Without room on a majority of
// disks writes are refused.
func TestNoRoomAtTheLeader(t *testing.T) {
	t.Parallel()
	w, disks := newRoomWorld(t, 3)
	s := w.storm()
	s.more(100)
	old := w.leader()
	disks[old].free.Store(0)
	w.eventually("another node leads", func() bool { return w.leader() != old })
	s.more(200)
	if got := w.refusal("SET x v"); got != "+OK" {
		t.Errorf("with one disk of three full: %s", got)
	}
	now := w.leader()
	third := 3 - old - now
	disks[third].free.Store(0)
	w.eventually("writes are refused", func() bool { return strings.HasPrefix(w.refusal("SET x v"), "-NOREPLICAS") })
	if d := w.status().Disk; d.Low || !d.Refuses || d.Without != 2 {
		t.Errorf("its status says %+v", d)
	}
	for _, n := range w.status().Nodes {
		if n.DiskLow != (n.Name != w.nodes[now].name) {
			t.Errorf("%s: low is %v", n.Name, n.DiskLow)
		}
	}
	disks[old].free.Store(1 << 40)
	s.more(200)
	s.end()
}

// A snapshot does not take the room that the log needs.
func TestNoRoomForASnapshot(t *testing.T) {
	t.Parallel()
	w, disks := newRoomWorld(t, 1)
	w.do("SET", "k", strings.Repeat("v", 1<<20))
	for i := range 12 { // what does not compress
		w.do("SETRANGE", "big", fmt.Sprint(i<<20), noise(1<<20))
	}
	before := w.status().Log
	disks[0].free.Store(testReserve + 1<<20)
	if err := w.nodes[0].MakeSnapshot(); err == nil || !strings.Contains(err.Error(), "no room for a snapshot") {
		t.Fatalf("got %v", err)
	}
	if got := w.status().Log; got.First != before.First || got.Snapshot != before.Snapshot {
		t.Errorf("the log was cut: %+v, %+v", before, got)
	}
	w.nodes[0].WantSnapshot()
	w.until(0, `snapshots_total{outcome="failed"}`, above(0))
	disks[0].free.Store(1 << 40)
	if err := w.nodes[0].MakeSnapshot(); err != nil {
		t.Fatal(err)
	}
	if got := w.status().Log; got.Snapshot <= before.Snapshot {
		t.Errorf("there is no new snapshot: %+v, %+v", before, got)
	}
}

// A real disk that is full, by somebody else's doing: the reserve is used, and what clients read goes on. When that is
// used up too the node stops with the reason, and goes on when there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := newTmpfs(t, 256<<20)
	need(t)
	w := &world{t: t, nodes: []*member{{name: "n1", dir: disk.dir + "/n1", reserve: 48 << 20}}}
	w.open(0)
	t.Cleanup(func() { w.kill(0) })
	w.do("SET", "stays", "v")
	disk.fill(0)
	w.eventually("the reserve is given up, and writes are refused", func() bool {
		_ = w.refusal("PUBLISH c " + strings.Repeat("x", 1<<20)) // the log's file has some room in advance
		d := w.status().Disk
		return d.Reserve == 0 && d.Low && strings.HasPrefix(w.refusal("SET x v"), "-NOREPLICAS")
	})
	if got := w.refusal("GET stays"); got != "v" {
		t.Fatalf("a read on the reserve: %s", got)
	}
	before := w.status().Safe
	if got := w.refusal("PUBLISH c m"); got != ":0" || w.status().Safe <= before {
		t.Fatalf("the log takes nothing more: %s", got)
	}
	disk.fill(0) // and nothing is left of the reserve
	w.eventually("it stops", func() bool {
		_ = w.refusalOf(0, "PUBLISH c "+strings.Repeat("x", 1<<20))
		select {
		case <-w.nodes[0].Failed():
			return true
		default:
			return false
		}
	})
	failure := w.nodes[0].Err()
	if failure == nil || !strings.Contains(failure.Error(), "disk of the log is full") {
		t.Fatalf("it says %v", failure)
	}
	w.kill(0)
	cfg := replica.Config{Dir: w.nodes[0].dir, Logger: w.logger(w.nodes[0])}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := replica.Await(ctx, cfg, failure); err == nil {
		t.Fatal("it takes a full disk for one with room")
	}
	disk.empty()
	if err := replica.Await(t.Context(), cfg, failure); err != nil {
		t.Fatal(err)
	}
	w.open(0)
	if got := w.do("GET", "stays"); got != "v" {
		t.Fatalf("it came back with %q", got)
	}
	w.eventually("it takes writes", func() bool { return w.refusal("SET x v") == "+OK" })
	if d := w.status().Disk; d.Reserve == 0 {
		t.Fatalf("there is no reserve: %+v", d)
	}
}
