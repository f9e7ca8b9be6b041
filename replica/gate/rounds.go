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
	offset   int64 // the answer
	verified bool
}

// rounds decides what may leave. It has no I/O and no clock. Rounds leave in the order in
// which they were asked.
type rounds struct {
	committed int64
	last      uint64 // id of the newest round
	verified  uint64 // the node is known to have led after this round had been asked
	asking    bool   // a question is on its way
	queue     []round
}

// ask begins a round; its question goes out after this.
func (r *rounds) ask() uint64 {
	r.last++
	r.asking = true
	return r.last
}

// answer ends the asking. When the offset lies past what the log had been given before the
// question, a proposal that was made after the spans were read has to be committed before
// they leave, and that proves that the node led then.
func (r *rounds) answer(id uint64, spans []span, offset, proposed int64) (proven bool) {
	r.asking = false
	proven = offset > proposed
	r.queue = append(r.queue, round{id, spans, offset, proven || id <= r.verified || mutant.NoVerify || mutant.Early})
	return proven
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
func (r *rounds) commit(offset int64) { r.committed = max(r.committed, offset) }

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
