package consensus

import (
	"fmt"
	"io"
	"log"
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// rig is one of three voters, without anything around it.
type rig struct {
	t *testing.T
	*raft.RawNode
	log *raft.MemoryStorage
}

func newRig(t *testing.T, id uint64) *rig {
	t.Helper()
	s := raft.NewMemoryStorage()
	if err := s.ApplySnapshot(&pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: new(uint64(1)), Term: new(uint64(1)),
		ConfState: pb.EnsureConfState(&pb.ConfState{Voters: []uint64{1, 2, 3}})}}); err != nil {
		t.Fatal(err)
	}
	rn, err := raft.NewRawNode(&raft.Config{ID: id, Storage: s, Applied: 1, ElectionTick: 1000, HeartbeatTick: 1, PreVote: true, CheckQuorum: true,
		MaxSizePerMsg: maxMessage, MaxInflightMsgs: 256, MaxInflightBytes: maxInflight, Logger: &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)}})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, RawNode: rn, log: s}
}

// settle takes what there is to do, and returns what was sent.
func (r *rig) settle() (sent []*pb.Message) {
	r.t.Helper()
	for r.HasReady() {
		rd := r.Ready()
		if !raft.IsEmptyHardState(rd.HardState) {
			if err := r.log.SetHardState(rd.HardState); err != nil {
				r.t.Fatal(err)
			}
		}
		if err := r.log.Append(rd.Entries); err != nil {
			r.t.Fatal(err)
		}
		sent = append(sent, rd.Messages...)
		r.Advance(rd)
	}
	return sent
}

func (r *rig) hears(kind pb.MessageType, from, term, index uint64) {
	r.t.Helper()
	if err := r.Step(&pb.Message{Type: &kind, From: &from, To: new(r.BasicStatus().ID), Term: &term, Index: &index}); err != nil {
		r.t.Fatal(err)
	}
}

// lead makes it the leader; node 2 takes entries as they come, node 3 has not answered.
func (r *rig) lead() {
	r.t.Helper()
	if err := r.Campaign(); err != nil {
		r.t.Fatal(err)
	}
	term := r.BasicStatus().HardState.GetTerm() + 1
	r.settle()
	r.hears(pb.MsgPreVoteResp, 2, term, 0)
	r.settle()
	r.hears(pb.MsgVoteResp, 2, term, 0)
	r.settle()
	last, _ := r.log.LastIndex()
	r.hears(pb.MsgAppResp, 2, term, last)
	r.settle()
	if r.BasicStatus().RaftState != raft.StateLeader || !flows(r.RawNode, 2) || flows(r.RawNode, 3) {
		r.t.Fatal("it does not lead as the test wants it to")
	}
}

// Those who know no leader stand one after the other, so that votes do not split; each further time takes twice
// as long.
func TestStand(t *testing.T) {
	members := []Member{{ID: 1, Voter: true}, {ID: 2, Voter: true}, {ID: 3, Voter: true}}
	for _, c := range []struct {
		id, gone, term uint64 // the last leader, and in which term it led
		want           []int  // ticks at which it stands
	}{
		{1, 0, 0, []int{2, 6, 14}},
		{2, 0, 0, []int{7, 21, 49}},
		{3, 0, 0, []int{12, 36, 84}},
		{2, 1, 0, []int{2, 6, 14}}, // who has gone does not stand
		{3, 1, 0, []int{7, 21, 49}},
		{3, 2, 0, []int{7, 21, 49}},
		{1, 3, 0, []int{2, 6, 14}},
		{1, 3, 9, []int{8, 24, 56}}, // an election has begun since: it is given time
	} {
		t.Run(fmt.Sprintf("%d after %d of term %d", c.id, c.gone, c.term), func(t *testing.T) {
			r := newRig(t, c.id)
			s := stand{gone: c.gone, term: c.term}
			var stood []int
			for tick := 1; tick <= c.want[2]; tick++ {
				s.tick(r.RawNode, members)
				if slices.ContainsFunc(r.settle(), func(m *pb.Message) bool { return m.GetType() == pb.MsgPreVote }) {
					stood = append(stood, tick)
				}
			}
			if !slices.Equal(stood, c.want) {
				t.Errorf("it stood at %v, and should have at %v", stood, c.want)
			}
		})
	}
}

// Who has a leader, has no vote, or has tried often enough leaves it to raft.
func TestStandLeavesItToRaft(t *testing.T) {
	voters := []Member{{ID: 1, Voter: true}, {ID: 2, Voter: true}, {ID: 3}}
	for _, c := range []struct {
		name string
		id   uint64
		s    stand
		led  bool
	}{
		{"a leader is there", 1, stand{}, true},
		{"no vote", 3, stand{}, false},
		{"often enough", 1, stand{tries: mostStands + 1}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.id)
			if c.led {
				r.hears(pb.MsgHeartbeat, 2, 1, 0)
			}
			c.s.term = r.BasicStatus().HardState.GetTerm()
			for range 200 {
				c.s.tick(r.RawNode, voters)
				for _, m := range r.settle() {
					if m.GetType() == pb.MsgPreVote {
						t.Fatal("it stands")
					}
				}
			}
		})
	}
}

// What only says how much is committed waits for entries that go the same way, or for the next tick.
func TestLateCommits(t *testing.T) {
	r := newRig(t, 1)
	r.lead()
	app := func(to uint64, entries int) *pb.Message {
		return &pb.Message{Type: pb.MsgApp.Enum(), To: &to, Term: new(r.BasicStatus().HardState.GetTerm()), Entries: make([]*pb.Entry, entries)}
	}
	beat := &pb.Message{Type: pb.MsgHeartbeat.Enum(), To: new(uint64(2))}
	var c commits
	for _, step := range []struct {
		name     string
		in       []*pb.Message
		out, due int
	}{
		{"entries leave", []*pb.Message{app(2, 1)}, 1, 0},
		{"a commit alone waits", []*pb.Message{app(2, 0), beat}, 1, 1},
		{"the newest is said once", []*pb.Message{app(2, 0), app(2, 0)}, 0, 1},
		{"entries say it, too", []*pb.Message{app(2, 0), app(2, 1)}, 1, 0},
		{"what finds out where a follower is does not wait", []*pb.Message{app(3, 0)}, 1, 0},
	} {
		if out := c.thin(r.RawNode, step.in); len(out) != step.out {
			t.Errorf("%s: %d leave", step.name, len(out))
		}
		if due := c.due(r.RawNode); len(due) != step.due {
			t.Errorf("%s: %d are due", step.name, len(due))
		}
		if again := c.due(r.RawNode); len(again) > 0 {
			t.Errorf("%s: said twice", step.name)
		}
	}
	old := app(2, 0)
	old.Term = new(old.GetTerm() - 1)
	c.thin(r.RawNode, []*pb.Message{old})
	if due := c.due(r.RawNode); len(due) > 0 {
		t.Error("said in a later term")
	}
}

// A follower that comes back gets what it lacks in portions: raft's loop reads each from the disk before it does
// anything else, and heartbeats are its to send.
func TestAReturningFollowerDoesNotHoldTheLoop(t *testing.T) {
	r := newRig(t, 1)
	r.lead()
	for range 160 { // 40 MiB
		if err := r.Propose(make([]byte, 256<<10)); err != nil {
			t.Fatal(err)
		}
		r.settle()
	}
	r.hears(pb.MsgAppResp, 3, r.BasicStatus().HardState.GetTerm(), 1) // so far it has come
	size := 0
	for _, m := range r.settle() {
		for _, e := range m.GetEntries() {
			if m.GetTo() == 3 {
				size += len(e.GetData())
			}
		}
	}
	if size == 0 || size > 9<<20 {
		t.Errorf("%d MiB in one turn", size>>20)
	}
}

// What others send waits within bounds; what this node says to itself is never dropped.
func TestInboxBounds(t *testing.T) {
	var b inbox
	b.init()
	big := func() *pb.Message {
		return &pb.Message{Type: pb.MsgApp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Entries: []*pb.Entry{{Data: make([]byte, 1<<20)}}}
	}
	own := &pb.Message{Type: pb.MsgAppResp.Enum(), From: new(uint64(1)), To: new(uint64(1))}
	const most = maxStepBytes >> 20
	for range 2 { // and once more when they were taken
		for range most + 10 {
			b.step([]*pb.Message{big()})
		}
		b.step([]*pb.Message{own})
		if got := b.take(); len(got.steps) != most+1 || got.steps[most] != own {
			t.Errorf("%d wait, of at most %d", len(got.steps), most)
		}
	}
	small := &pb.Message{Type: pb.MsgHeartbeat.Enum(), From: new(uint64(2)), To: new(uint64(1))}
	for range maxSteps + 10 {
		b.step([]*pb.Message{small})
	}
	b.step([]*pb.Message{own})
	if got := b.take(); len(got.steps) != maxSteps+1 {
		t.Errorf("%d small ones wait, of at most %d", len(got.steps), maxSteps)
	}
}
