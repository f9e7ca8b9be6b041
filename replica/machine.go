package replica

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/holdfast-dev/holdfast/replica/consensus"
	"github.com/holdfast-dev/holdfast/replica/core"
)

// machine is the Node as the log sees it.
type machine Node

// stored is what a snapshot's data says: the state at its index, and the offset of the copy of
// the engine that is its file. The copy may be ahead of the state; entries that follow the
// index have the bytes between.
type stored struct {
	Format int        `json:"format"`
	State  core.State `json:"state"`
	Copy   int64      `json:"copy"`
}

const storedFormat = 1

// Apply takes what is committed. Nothing here waits for anything but mu, nor does anybody wait for what is written
// to the log.
func (m *machine) Apply(entries []consensus.Entry) error {
	n := (*Node)(m)
	begun, err := n.applyAll(entries)
	for _, e := range begun {
		if e.old {
			n.replayed = append(n.replayed, e)
			continue
		}
		n.tellReplayed()
		n.log.Info("epoch begins", "epoch", e.number, "leader", e.leader, "offset", e.start)
	}
	if last := entries[len(entries)-1]; !last.Old || last.Newest {
		n.tellReplayed()
	}
	return err
}

// tellReplayed says in one line what the log had of epochs when the node started: they are no news.
func (n *Node) tellReplayed() {
	if len(n.replayed) == 0 {
		return
	}
	newest := n.replayed[len(n.replayed)-1]
	n.log.Info("epochs replayed", "epochs", len(n.replayed), "newest", newest.number, "leader", newest.leader, "offset", newest.start)
	n.replayed = nil
}

// beginning is an epoch's.
type beginning struct {
	old    bool
	number uint64
	leader string
	start  int64
}

func (n *Node) applyAll(entries []consensus.Entry) (begun []beginning, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range entries {
		b, err := n.apply(e)
		if err != nil {
			return begun, err
		}
		if b != nil {
			begun = append(begun, *b)
		}
	}
	n.seenAsMember()
	n.changed()
	state := n.core.State()
	if s := n.session; s != nil && s.epoch == state.Current().Number {
		n.gate.Committed(state.Safe)
		s.committed(state.Safe)
	}
	return begun, nil
}

// apply needs mu.
func (n *Node) apply(e consensus.Entry) (*beginning, error) {
	n.index = e.Index
	entry, err := core.Decode(e.Data)
	if err != nil { // written by a newer version: going on would mean to guess
		return nil, fmt.Errorf("%w: entry %d: %w", consensus.ErrFormat, e.Index, err)
	}
	state := n.core.State()
	before := state.Offset
	if !n.core.Applied(e.Term, entry) {
		return nil, nil
	}
	switch entry := entry.(type) {
	case core.Chunk:
		n.spans.add(span{before, len(entry.Bytes), e.Index})
	case core.Declaration:
		n.spans.cut(entry.Start)
		return &beginning{e.Old, state.Current().Number, n.nameOf(entry.Node), entry.Start}, nil
	}
	return nil, nil
}

// Restore puts a snapshot in the place of everything.
func (m *machine) Restore(s consensus.Snapshot) error {
	n := (*Node)(m)
	var st stored
	if err := json.Unmarshal(s.Data, &st); err != nil {
		return fmt.Errorf("%w: snapshot %d: %w", consensus.ErrDamaged, s.Index, err)
	}
	if st.Format != storedFormat {
		return fmt.Errorf("%w: snapshot %d: its data has format %d, and this version knows %d", consensus.ErrFormat, s.Index, st.Format, storedFormat)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.core.Restored(st.State)
	n.spans = spans{begin: st.State.Offset}
	n.index, n.copyAt, n.copied = s.Index, s.Index, st
	n.seenAsMember()
	n.changed()
	return nil
}

// Members tells who belongs to the cluster.
func (m *machine) Members(members []consensus.Member) {
	n := (*Node)(m)
	var known []Member
	for _, c := range members {
		var member Member
		if err := json.Unmarshal(c.Context, &member); err != nil {
			n.log.Error("a member cannot be read", "id", c.ID, "error", err)
		}
		member.ID, member.Voter = c.ID, c.Voter
		known = append(known, member)
	}
	n.setMembers(known)
	n.mu.Lock()
	removed := n.memberAt > 0 && !n.isMember(n.ident.ID)
	n.mu.Unlock()
	if removed {
		n.takenOut("its log has it")
	}
}

func (n *Node) setMembers(known []Member) {
	slices.SortFunc(known, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	addrs := map[uint64]string{}
	for _, m := range known {
		addrs[m.ID] = m.Raft
	}
	n.mu.Lock()
	n.members = known
	n.tellMembers()
	n.changed()
	n.mu.Unlock()
	n.net.SetPeers(addrs)
}

func (n *Node) known() []Member {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.members
}

// nameOf needs mu.
func (n *Node) nameOf(id uint64) string {
	for _, m := range n.members {
		if m.ID == id {
			return m.Name
		}
	}
	return ""
}

// span says which entry has which bytes of the stream.
type span struct {
	from  int64
	size  int
	index uint64
}

// spans are those of the log, without gaps, in order.
type spans struct {
	begin int64 // what lies before is in the snapshot's copy only
	all   []span
}

func (s *spans) add(one span) { s.all = append(s.all, one) }

// cut voids what lies past an offset: a new epoch begins there.
func (s *spans) cut(offset int64) {
	for len(s.all) > 0 {
		last := &s.all[len(s.all)-1]
		if last.from < offset {
			last.size = int(min(int64(last.size), offset-last.from))
			return
		}
		s.all = s.all[:len(s.all)-1]
	}
}

// at is the place of the span that has the byte after offset; false when that is gone.
func (s *spans) at(offset int64) (int, bool) {
	if offset < s.begin {
		return 0, false
	}
	i, found := slices.BinarySearchFunc(s.all, offset, func(sp span, o int64) int { return cmp.Compare(sp.from, o) })
	if !found {
		i--
	}
	return i, i >= 0
}

// drop gives up what a snapshot at that index has.
func (s *spans) drop(index uint64, begin int64) {
	i := 0
	for i < len(s.all) && s.all[i].index <= index {
		i++
	}
	s.all = slices.Clone(s.all[i:])
	s.begin = begin
}
