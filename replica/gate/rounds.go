package gate

import "github.com/holdfast-dev/holdfast/internal/mutant"

// span is a part of what was read for a client: all up to upto.
type span struct {
	conn *conn
	upto int64
	last bool // the engine's end of the connection follows it
}

// round is one question for the engine's offset, asked after the spans' bytes had been read.
type round struct {
	id       uint64
	spans    []span
	proposed int64 // what the log had been given when it was asked
	offset   int64 // the answer
	verified bool
}

// rounds decides what may leave. It has no I/O and no clock. Rounds leave in the order in
// which they were asked.
type rounds struct {
	committed int64
	last      uint64 // id of the newest round
	verified  uint64 // the node is known to have led after this round had been asked
	asked     uint64 // whether it did was asked for rounds up to this one
	asking    bool   // a question is on its way
	queue     []round
}

// ask begins a round; its question goes out after this.
func (r *rounds) ask() uint64 {
	r.last++
	r.asking = true
	return r.last
}

// answer ends the asking. What the log is given past proposed, it was given after the spans had
// been read: once some of that is committed, the node is proven to have led then. So a round whose
// offset lies past it needs no other proof; nor does one after which the log was given more (now),
// as long as it has to wait for its offset.
func (r *rounds) answer(id uint64, spans []span, offset, proposed, now int64) (proven bool) {
	r.asking = false
	verified := id <= r.verified || r.committed > proposed || mutant.NoVerify || mutant.Early
	r.queue = append(r.queue, round{id, spans, proposed, offset, verified})
	return verified || max(offset, now) > proposed
}

// unproven is the newest round that could leave, were it verified, and for which nobody has asked
// yet; 0: none.
func (r *rounds) unproven() (id uint64) {
	for _, q := range r.queue {
		if q.offset > r.committed {
			break
		}
		if !q.verified && q.id > r.asked {
			id = q.id
		}
	}
	return id
}

// verify: the node was known to lead after round id had been asked; so it did for earlier ones.
func (r *rounds) verify(id uint64) {
	r.verified = max(r.verified, id)
	for i := range r.queue {
		if r.queue[i].id <= id {
			r.queue[i].verified = true
		}
	}
}

// commit never goes back.
func (r *rounds) commit(offset int64) {
	r.committed = max(r.committed, offset)
	for i := range r.queue {
		r.queue[i].verified = r.queue[i].verified || r.queue[i].proposed < r.committed
	}
}

// ready takes the rounds off the queue that may leave.
func (r *rounds) ready() []round {
	n := 0
	for n < len(r.queue) && r.queue[n].verified && r.queue[n].offset <= r.committed {
		n++
	}
	out := r.queue[:n:n]
	r.queue = r.queue[n:]
	return out
}
