package consensus

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// What follows is raft's Storage.

func (d *disk) InitialState() (*pb.HardState, *pb.ConfState, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hard, pb.EnsureConfState(d.snapshot.GetMetadata().GetConfState()), nil
}

func (d *disk) Entries(lo, hi, maxSize uint64) ([]*pb.Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if lo < d.first {
		return nil, raft.ErrCompacted
	}
	if hi > d.last+1 {
		return nil, raft.ErrUnavailable
	}
	var out []*pb.Entry
	size := uint64(0)
	if n := len(d.recent); n > 0 && lo >= d.recent[0].GetIndex() {
		at := lo - d.recent[0].GetIndex()
		for _, e := range d.recent[at : at+hi-lo] {
			if size += uint64(proto.Size(e)); size > maxSize && len(out) > 0 {
				break
			}
			out = append(out, e)
		}
		return out, nil
	}
	return d.fromDisk(lo, hi, maxSize)
}

// fromDisk needs mu: what it reads must not be truncated meanwhile.
func (d *disk) fromDisk(lo, hi, maxSize uint64) (out []*pb.Entry, err error) {
	if d.closed {
		return nil, ErrClosed
	}
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(lo), UpperBound: entryKey(hi)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	size := uint64(0)
	for ok := it.First(); ok; ok = it.Next() {
		e, err := decode(it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		if e.GetIndex() != lo+uint64(len(out)) {
			return nil, fmt.Errorf("%w: entry %d is missing", ErrDamaged, lo+uint64(len(out)))
		}
		if size += uint64(proto.Size(e)); size > maxSize && len(out) > 0 {
			return out, nil
		}
		out = append(out, e)
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if next := lo + uint64(len(out)); next < hi { // raft would take nothing for nothing to do, and ask again without end
		return nil, fmt.Errorf("%w: entry %d is missing", ErrDamaged, next)
	}
	return out, nil
}

func (d *disk) Term(i uint64) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case i == d.first-1:
		return d.before, nil
	case i < d.first:
		return 0, raft.ErrCompacted
	case i > d.last:
		return 0, raft.ErrUnavailable
	case len(d.recent) > 0 && i >= d.recent[0].GetIndex():
		return d.recent[i-d.recent[0].GetIndex()].GetTerm(), nil
	}
	ents, err := d.fromDisk(i, i+1, 0)
	if err != nil || len(ents) == 0 {
		return 0, errors.Join(raft.ErrUnavailable, err)
	}
	return ents[0].GetTerm(), nil
}

func (d *disk) LastIndex() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last, nil
}

func (d *disk) FirstIndex() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.first, nil
}

// Snapshot is asked for a node that needs more than the log has. One that was made before some
// member came is of no use to that member: it would not find itself in it.
func (d *disk) Snapshot() (*pb.Snapshot, error) {
	s := d.newest()
	if raft.IsEmptySnap(s) || !d.coversMembers(s.GetMetadata().GetConfState()) {
		d.want()
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return s, nil
}

func (d *disk) newest() *pb.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.snapshot
}

func (d *disk) coversMembers(conf *pb.ConfState) bool {
	for _, m := range d.members.newest().members {
		if !slices.Contains(conf.GetVoters(), m.ID) && !slices.Contains(conf.GetLearners(), m.ID) {
			return false
		}
	}
	return true
}

// putSnapshot makes a snapshot the newest one and gives up the log behind it, except for keep
// bytes that nodes which are not far behind can still be sent.
func (d *disk) putSnapshot(s *pb.Snapshot, keep int64) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	index := s.GetMetadata().GetIndex()
	d.mu.Lock()
	if index <= d.snapshot.GetMetadata().GetIndex() {
		d.mu.Unlock()
		return nil
	}
	from := d.keptFrom(index, keep)
	d.mu.Unlock()
	term, err := d.Term(from - 1)
	if err != nil {
		return err
	}
	b := d.db.NewBatch()
	defer func() { _ = b.Close() }()
	if err := d.addSnapshot(b, s); err != nil {
		return err
	}
	// The entry before the first one stays: the next start reads its term from it.
	if err := b.DeleteRange(entryKey(0), entryKey(from-1), nil); err != nil {
		return err
	}
	// Raft looks for no entry that is about to go: one that is missing would be damage.
	d.mu.Lock()
	d.snapshot, d.first, d.before = s, from, term
	d.mu.Unlock()
	return d.commit(b, pebble.Sync)
}

// keptFrom is the first entry that stays, at most keep bytes behind index; it needs mu.
func (d *disk) keptFrom(index uint64, keep int64) uint64 {
	from := index + 1
	if len(d.recent) == 0 || d.recent[0].GetIndex() > index {
		return from
	}
	for from > max(d.recent[0].GetIndex(), d.first) {
		e := d.recent[from-1-d.recent[0].GetIndex()]
		if keep -= int64(len(e.GetData())); keep < 0 {
			return from
		}
		from--
	}
	return from
}
