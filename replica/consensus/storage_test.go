package consensus

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
)

// logOf is a log of n entries of 100 bytes each, of which almost none is kept in memory.
func logOf(t *testing.T, n uint64) *disk {
	t.Helper()
	d, err := openDisk(Config{Dir: "/d", FS: vfs.NewMem(), CacheBytes: 1}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.db.Close() })
	var es []*pb.Entry
	for i := uint64(1); i <= n; i++ {
		es = append(es, &pb.Entry{Index: &i, Term: new(uint64(1)), Data: make([]byte, 100)})
	}
	if err := d.save([]*pb.Message{{Entries: es}}); err != nil {
		t.Fatal(err)
	}
	return d
}

// What the log is known to have and does not is damage. Raft would take an answer without entries for nothing to
// do, and ask again without end.
func TestMissingEntriesAreDamage(t *testing.T) {
	for _, c := range []struct {
		name         string
		gone         [2]uint64 // from, to and without
		lo, hi, size uint64
		want         int // entries; 0: damage
	}{
		{"all are there", [2]uint64{0, 0}, 3, 8, 1 << 20, 5},
		{"as much as fits", [2]uint64{0, 0}, 3, 8, 250, 2},
		{"one at least", [2]uint64{0, 0}, 3, 8, 1, 1},
		{"what lies behind what fits is not looked at", [2]uint64{6, 8}, 3, 8, 250, 2},
		{"all are gone", [2]uint64{3, 8}, 3, 8, 1 << 20, 0},
		{"the only one is gone", [2]uint64{3, 4}, 3, 4, 1, 0},
		{"the first is gone", [2]uint64{3, 4}, 3, 8, 1 << 20, 0},
		{"one between", [2]uint64{5, 6}, 3, 8, 1 << 20, 0},
		{"the last", [2]uint64{7, 8}, 3, 8, 1 << 20, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := logOf(t, 10)
			if err := d.db.DeleteRange(entryKey(c.gone[0]), entryKey(c.gone[1]), pebble.Sync); err != nil {
				t.Fatal(err)
			}
			got, err := d.Entries(c.lo, c.hi, c.size)
			if c.want == 0 && !errors.Is(err, ErrDamaged) {
				t.Errorf("%d entries, %v", len(got), err)
			}
			if c.want > 0 && (err != nil || len(got) != c.want) {
				t.Errorf("%d entries, %v", len(got), err)
			}
		})
	}
}
