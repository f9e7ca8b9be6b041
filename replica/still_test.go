package replica_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// stillDisk is a disk whose syncs of the log stand still while they are told to.
type stillDisk struct {
	vfs.FS
	gate atomic.Pointer[chan struct{}]
}

func newStillDisk() *stillDisk {
	d := &stillDisk{}
	d.FS = errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if gate := d.gate.Load(); gate != nil && op.Kind == errorfs.OpFileSyncData && strings.HasSuffix(op.Path, ".log") {
			<-*gate
		}
		return nil
	}))
	return d
}

func (d *stillDisk) hold() (letGo func()) {
	gate := make(chan struct{})
	d.gate.Store(&gate)
	return sync.OnceFunc(func() { d.gate.Store(nil); close(gate) })
}

// A leader whose disk takes nothing goes on to say that it leads, and nothing is committed that it would have to
// have on its disk. It is seen, it says that it is not ready, and another one leads.
func TestDiskThatStandsStill(t *testing.T) {
	t.Parallel()
	var disks []*stillDisk
	w := newWorldOn(t, 3, func() vfs.FS {
		disks = append(disks, newStillDisk())
		return disks[len(disks)-1]
	})
	leader := w.leader()
	w.do("SET", "k", "before")
	letGo := disks[leader].hold()
	defer letGo()
	c, err := w.dial(leader)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	go func() { _, _ = c.do("SET", "k", "nobody knows") }()
	w.until(leader, `log_stands_seconds{what="sync"}`, above(3))
	w.eventually("it is not ready", func() bool {
		rec := w.nodes[leader].get("/readyz")
		return rec.Code == 503 && strings.Contains(rec.Body.String(), "disk has not taken")
	})
	w.eventually("another one leads", func() bool {
		s := w.status()
		return s.Leads && s.Name != w.nodes[leader].name
	})
	if got := w.do("GET", "k"); got != "before" && got != "nobody knows" {
		t.Errorf("it has %q", got)
	}
	w.do("SET", "k", "after")
	letGo()
	w.eventually("it is ready again", func() bool { return w.nodes[leader].get("/readyz").Code == 200 })
	w.until(leader, `log_stands_seconds{what="sync"}`, below(1))
	w.until(leader, `log_stands_seconds{what="turn"}`, below(1))
	w.sameDigests()
}
