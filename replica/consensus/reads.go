package consensus

import (
	"bytes"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

type read struct {
	term uint64
	done func(bool)
	at   time.Time
}

// reads has at most one verification on its way: those who come meanwhile share the next one,
// whose messages are sent after all of them have come.
type reads struct {
	term    uint64
	leads   bool
	last    uint64
	asked   []read // wait for the answers to the verification numbered last
	waiting []read
}

func (r *reads) ask(rn *raft.RawNode, more []read) {
	r.waiting = append(r.waiting, more...)
	if len(r.asked) > 0 || len(r.waiting) == 0 {
		return
	}
	s := rn.BasicStatus()
	if s.RaftState != raft.StateLeader {
		r.end()
		return
	}
	r.take(s.HardState.GetTerm())
	if len(r.asked) == 0 {
		return
	}
	r.last++
	rn.ReadIndex(id(r.last))
}

// again asks anew once the members have changed: who has not answered may be gone, and a node that is
// alone now is answered by nobody.
func (r *reads) again(rn *raft.RawNode) {
	if len(r.asked) > 0 && rn.BasicStatus().RaftState == raft.StateLeader {
		r.last++
		rn.ReadIndex(id(r.last))
	}
}

// take makes those who wait those who have asked. Who asks about an earlier term has the answer.
func (r *reads) take(term uint64) {
	for _, a := range r.waiting {
		if a.term == term {
			r.asked = append(r.asked, a)
		} else {
			a.done(false)
		}
	}
	r.waiting = nil
}

func (r *reads) answered(states []raft.ReadState, rn *raft.RawNode, observe func(Event, time.Duration)) {
	for _, s := range states {
		if !bytes.Equal(s.RequestCtx, id(r.last)) || len(r.asked) == 0 {
			continue
		}
		observe(Verified, time.Since(r.asked[0].at))
		r.confirm()
		r.ask(rn, nil)
	}
}

func (r *reads) confirm() {
	asked := r.asked
	r.asked = nil
	for _, a := range asked {
		a.done(true)
	}
}

// heard takes any answer to any heartbeat for a confirmation, which is what a mutant does.
func (r *reads) heard(rn *raft.RawNode) {
	if mutant.LateVerify && rn.BasicStatus().RaftState == raft.StateLeader {
		r.confirm()
	}
}

// during: what was asked in an earlier term, or before leadership was lost, has no answer.
func (r *reads) during(term uint64, leads bool) {
	if term != r.term || leads != r.leads {
		r.end()
	}
	r.term, r.leads = term, leads
}

func (r *reads) end() {
	all := append(r.asked, r.waiting...)
	r.asked, r.waiting = nil, nil
	for _, a := range all {
		a.done(false)
	}
}
