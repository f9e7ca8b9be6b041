package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

// Keys of the log's database. An entry's value is its term (8 bytes), its type (1), its data.
var (
	formatKey   = []byte("format")
	hardKey     = []byte("hard")
	snapshotKey = []byte("snapshot")
)

const (
	entryKind = 'e'
	format    = "1"
	// pebbleFormat is the first one whose log tells a torn tail from damage before it.
	pebbleFormat = pebble.FormatWALSyncChunks
)

// disk is raft's storage. One goroutine writes entries, another one snapshots; all may read.
type disk struct {
	db    *pebble.DB
	cache int64
	fail  func(error)

	writing sync.Mutex // one batch that tells the snapshot at a time: an older one must not follow a newer one
	broken  atomic.Pointer[error]
	closed  bool // under writing and mu

	members *history // who has to be in a snapshot that is sent
	want    func()   // a snapshot that has them is needed

	mu       sync.Mutex
	hard     *pb.HardState
	snapshot *pb.Snapshot
	first    uint64 // of the entries that are there
	last     uint64
	before   uint64      // term of entry first-1
	recent   []*pb.Entry // the newest entries, ending with last
	bytes    int64       // of recent
}

// openDisk opens or makes the log. fail is told of what Pebble cannot go on after.
func openDisk(c Config, fail func(error)) (*disk, error) {
	d := &disk{cache: c.CacheBytes, fail: fail, members: &history{}, want: func() {}, hard: &pb.HardState{}, snapshot: pb.EnsureSnapshot(nil), first: 1}
	if err := MakeDir(c.FS, c.Dir); err != nil {
		return nil, err
	}
	dir := c.FS.PathJoin(c.Dir, "log")
	db, err := pebble.Open(dir, &pebble.Options{
		FS: c.FS, FormatMajorVersion: pebbleFormat, CacheSize: 8 << 20, MemTableSize: 32 << 20,
		MemTableStopWritesThreshold: 4, L0StopWritesThreshold: 1000,
		Logger: quiet{c.Logger, d.broke},
	})
	if errors.Is(err, syscall.EAGAIN) { // the lock, which another process has
		return nil, fmt.Errorf("%w: %s", ErrInUse, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", damagedOr(err), dir, err)
	}
	d.db = db
	if err := d.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), db.Close())
	}
	return d, nil
}

func damagedOr(err error) error {
	if pebble.IsCorruptionError(err) {
		return ErrDamaged
	}
	return ErrClosed
}

// broke is told of what Pebble would end the process for.
func (d *disk) broke(err error) {
	d.broken.CompareAndSwap(nil, &err)
	d.fail(err)
}

// commit ends a batch. Pebble does not return that a batch could not be written or synced: it says so
// with Fatalf, and goes on when that returns. It needs writing, or that nobody else is there yet.
func (d *disk) commit(b *pebble.Batch, how *pebble.WriteOptions) error {
	if d.closed {
		return ErrClosed
	}
	if err := b.Commit(how); err != nil {
		return err
	}
	if err := d.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// close waits for who uses the database; whoever comes later has ErrClosed.
func (d *disk) close() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.db.Close()
}

// quiet keeps Pebble from ending the process.
type quiet struct {
	log  *slog.Logger
	fail func(error)
}

func (q quiet) Infof(string, ...any) {}
func (q quiet) Errorf(f string, args ...any) {
	q.log.Error("replica: log", "error", fmt.Sprintf(f, args...))
}
func (q quiet) Fatalf(f string, args ...any) {
	err := fmt.Errorf(f, args...)
	for _, arg := range args { // which is what is wrong, whatever the text does with it
		if cause, ok := arg.(error); ok && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", err, cause)
		}
	}
	q.fail(err)
}

func (d *disk) load() error {
	switch v, err := d.get(formatKey); {
	case err != nil:
		return err
	case v == nil:
		b := d.db.NewBatch()
		defer func() { _ = b.Close() }() // a batch that was committed or is given up
		if err := errors.Join(b.Set(formatKey, []byte(format), nil), d.commit(b, pebble.Sync)); err != nil {
			return err
		}
	case string(v) != format:
		return fmt.Errorf("%w: format %q, and this version knows %q", ErrFormat, v, format)
	}
	for key, m := range map[string]proto.Message{string(hardKey): d.hard, string(snapshotKey): d.snapshot} {
		v, err := d.get([]byte(key))
		if err != nil {
			return err
		}
		if err := proto.Unmarshal(v, m); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrDamaged, key, err)
		}
	}
	d.snapshot = pb.EnsureSnapshot(d.snapshot)
	d.first, d.before = d.snapshot.GetMetadata().GetIndex()+1, d.snapshot.GetMetadata().GetTerm()
	d.last = d.first - 1
	return d.loadEntries()
}

// loadEntries reads the whole log once: what is missing or out of order shows now.
func (d *disk) loadEntries() (err error) {
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(0), UpperBound: []byte{entryKind + 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	begun, term := false, uint64(0)
	for ok := it.First(); ok; ok = it.Next() {
		e, err := decode(it.Key(), it.Value())
		if err != nil {
			return err
		}
		if !begun {
			if e.GetIndex() > d.last+1 {
				return fmt.Errorf("%w: entries %d to %d are missing", ErrDamaged, d.last+1, e.GetIndex()-1)
			}
			if e.GetIndex() <= d.last { // kept from before the snapshot
				d.first, d.before = e.GetIndex()+1, e.GetTerm() // the first one only tells its term
				d.last = e.GetIndex()
				begun, term = true, e.GetTerm()
				continue
			}
			begun = true
		}
		if e.GetIndex() != d.last+1 || e.GetTerm() < term {
			return fmt.Errorf("%w: entry %d of term %d follows entry %d of term %d", ErrDamaged, e.GetIndex(), e.GetTerm(), d.last, term)
		}
		term = e.GetTerm()
		d.remember(e)
		d.last = e.GetIndex()
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if commit := d.hard.GetCommit(); commit > d.last || d.last < d.snapshot.GetMetadata().GetIndex() {
		return fmt.Errorf("%w: it ends at entry %d, and %d was committed", ErrDamaged, d.last, commit)
	}
	return nil
}

func (d *disk) get(key []byte) ([]byte, error) {
	v, closer, err := d.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return slices.Clone(v), closer.Close()
}

func entryKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{entryKind}, index)
}

func decode(key, value []byte) (*pb.Entry, error) {
	if len(key) != 9 || len(value) < 9 {
		return nil, fmt.Errorf("%w: an entry of %d bytes", ErrDamaged, len(value))
	}
	kind := pb.EntryType(value[8])
	return &pb.Entry{
		Index: new(binary.BigEndian.Uint64(key[1:])), Term: new(binary.BigEndian.Uint64(value)),
		Type: &kind, Data: slices.Clone(value[9:]),
	}, nil
}

// save writes what raft wants to be durable; sync says whether it has to be before anybody is told.
func (d *disk) save(ms []*pb.Message) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	b := d.db.NewBatch()
	defer func() { _ = b.Close() }() // a batch that was committed or is given up
	sync := false
	for _, m := range ms {
		s, err := d.add(b, m)
		if err != nil {
			return err
		}
		sync = sync || s
	}
	if b.Empty() {
		return nil
	}
	how := pebble.NoSync
	if sync && !mutant.LogSyncOff {
		how = pebble.Sync
	}
	if err := d.commit(b, how); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range ms {
		d.take(m)
	}
	return nil
}

// add writes one message to the batch.
func (d *disk) add(b *pebble.Batch, m *pb.Message) (sync bool, err error) {
	if s := m.GetSnapshot(); !raft.IsEmptySnap(s) {
		if err := d.addSnapshot(b, s); err != nil {
			return false, err
		}
		if err := b.DeleteRange(entryKey(0), []byte{entryKind + 1}, nil); err != nil {
			return false, err
		}
		sync = true
	}
	if ents := m.GetEntries(); len(ents) > 0 {
		// What follows the first of these is another leader's and void.
		if ents[0].GetIndex() <= d.last {
			if err := b.DeleteRange(entryKey(ents[0].GetIndex()), []byte{entryKind + 1}, nil); err != nil {
				return false, err
			}
		}
		for _, e := range ents {
			if err := addEntry(b, e); err != nil {
				return false, err
			}
		}
		sync = true
	}
	if hard := hardState(m); hard != nil {
		v, err := proto.Marshal(hard)
		if err != nil {
			return false, err
		}
		sync = sync || hard.GetTerm() != d.hard.GetTerm() || hard.GetVote() != d.hard.GetVote()
		return sync, b.Set(hardKey, v, nil)
	}
	return sync, nil
}

func addEntry(b *pebble.Batch, e *pb.Entry) error {
	op := b.SetDeferred(9, 9+len(e.GetData()))
	op.Key[0] = entryKind
	binary.BigEndian.PutUint64(op.Key[1:], e.GetIndex())
	binary.BigEndian.PutUint64(op.Value, e.GetTerm())
	op.Value[8] = byte(e.GetType())
	copy(op.Value[9:], e.GetData())
	return op.Finish()
}

func (d *disk) addSnapshot(b *pebble.Batch, s *pb.Snapshot) error {
	v, err := proto.Marshal(s)
	if err != nil {
		return err
	}
	return b.Set(snapshotKey, v, nil)
}

func hardState(m *pb.Message) *pb.HardState {
	if m.Term == nil && m.Vote == nil && m.Commit == nil {
		return nil
	}
	return &pb.HardState{Term: new(m.GetTerm()), Vote: new(m.GetVote()), Commit: new(m.GetCommit())}
}

// take makes what was written what is read; it needs mu.
func (d *disk) take(m *pb.Message) {
	if s := m.GetSnapshot(); !raft.IsEmptySnap(s) {
		d.snapshot = s
		d.first, d.last, d.before = s.GetMetadata().GetIndex()+1, s.GetMetadata().GetIndex(), s.GetMetadata().GetTerm()
		d.recent, d.bytes = nil, 0
	}
	for _, e := range m.GetEntries() {
		for len(d.recent) > 0 && d.recent[len(d.recent)-1].GetIndex() >= e.GetIndex() {
			n := len(d.recent) - 1
			d.bytes -= int64(len(d.recent[n].GetData()))
			d.recent = d.recent[:n:n]
		}
		d.remember(e)
		d.last = e.GetIndex()
	}
	if hard := hardState(m); hard != nil {
		d.hard = hard
	}
}

// remember needs mu, or that nobody else is there yet.
func (d *disk) remember(e *pb.Entry) {
	d.recent = append(d.recent, e)
	d.bytes += int64(len(e.GetData()))
	for d.bytes > d.cache && len(d.recent) > 1 {
		d.bytes -= int64(len(d.recent[0].GetData()))
		d.recent[0] = nil
		d.recent = d.recent[1:]
	}
}
