package drill

import (
	"fmt"
	"slices"
	"time"
)

// tenure is a lease as its holder knew it. Times are ns since 1970.
type tenure struct {
	who, op            int
	name               string
	token              int64
	owner              string
	asked, got         int64
	knew               int64 // until when it believed to hold the name
	released, answered int64 // 0: it did not
	outcome            string
	wrote, refused     []string // to
	lost, linger       bool
	shared             bool
	permits, of        int64 // of a semaphore; 0: it is none
}

// heldUntilReleased: the store itself said that the lease was held until then.
func (t tenure) heldUntilReleased() bool { return t.answered > 0 && t.outcome == "" }

// question is a wait that ended without a lease, or with one.
type question struct {
	who, op      int
	name         string
	asked, ended int64 // 0: it did not end
	within       int64 // ns
	err          string
	got          bool
}

// chronicle is what one round's holders knew.
type chronicle struct {
	tenures   []tenure
	questions []question
	stalls    map[int][]idleSpan // by holder: when it did not run
	killed    map[int]bool
	problems  []string // answers that no package names
	lost      int
}

type idleSpan struct{ from, to int64 }

// knowTolerance is how late a holder that runs may note that its lease has ended: what it takes to be
// scheduled and to write a line, on a machine with other things to do.
const knowTolerance = 150 * time.Millisecond

func chronicleOf(holders []*holderProcess) *chronicle {
	c := &chronicle{stalls: map[int][]idleSpan{}, killed: map[int]bool{}}
	for _, h := range holders {
		c.killed[h.index] = h.killed
		for _, e := range h.events {
			if e.Kind == "stall" {
				c.stalls[h.index] = append(c.stalls[h.index], idleSpan{e.At - e.For, e.At})
			}
		}
		c.add(h)
	}
	return c
}

// add reads one holder's events, operation by operation.
func (c *chronicle) add(h *holderProcess) {
	byOp := map[int][]holderEvent{}
	var ops []int
	for _, e := range h.events {
		if e.Op > 0 {
			if byOp[e.Op] == nil {
				ops = append(ops, e.Op)
			}
			byOp[e.Op] = append(byOp[e.Op], e)
		}
	}
	last := int64(0)
	if len(h.events) > 0 {
		last = h.events[len(h.events)-1].At
	}
	for _, op := range ops {
		q := question{who: h.index, op: op}
		t := tenure{who: h.index, op: op, knew: last}
		for _, e := range byOp[op] {
			c.event(&q, &t, e)
		}
		c.questions = append(c.questions, q)
		if q.got {
			t.knew = c.ran(h.index, t)
			c.tenures = append(c.tenures, t)
		}
	}
}

func (c *chronicle) event(q *question, t *tenure, e holderEvent) {
	switch e.Kind {
	case "ask":
		q.name, q.asked, q.within = e.Name, e.At, e.For
		t.name, t.asked, t.shared, t.permits, t.of = e.Name, e.At, e.Shared, e.Permits, e.Of
	case "failed":
		q.ended, q.err = e.At, e.Err
	case "got":
		q.ended, q.got = e.At, true
		t.token, t.owner, t.got, t.linger = e.Token, e.Owner, e.At, e.Linger
	case "lost":
		t.knew, t.lost = min(t.knew, e.At), true
		c.lost++
	case "wrote":
		switch {
		case e.Err == "" && e.Status == 200:
			t.wrote = append(t.wrote, e.To)
		case e.Err == "" && e.Status == 409:
			t.refused = append(t.refused, e.To)
		default:
			c.problems = append(c.problems, fmt.Sprintf("holder %d's write to %s was answered %d %s", t.who, e.To, e.Status, e.Err))
		}
	case "release":
		t.knew, t.released = min(t.knew, e.At), e.At
	case "released":
		t.answered, t.outcome = e.At, e.Err
	}
}

// ran moves the end of what a holder believed to before any time in which it did not run, and by what
// a line in the journal takes. It is not before the question.
func (c *chronicle) ran(who int, t tenure) int64 {
	knew := t.knew
	stalls := c.stalls[who]
	for i := len(stalls) - 1; i >= 0; i-- {
		if s := stalls[i]; s.from < knew && s.to > knew-knowTolerance.Nanoseconds() {
			knew = s.from
		}
	}
	return max(knew-knowTolerance.Nanoseconds(), t.asked)
}

// stalledIn says whether a holder did not run at some time.
func (c *chronicle) stalledIn(who int, from, to int64) bool {
	return slices.ContainsFunc(c.stalls[who], func(s idleSpan) bool { return s.from < to && s.to > from })
}

// byName sorts leases by their names, and those by token.
func (c *chronicle) byName() map[string][]tenure {
	all := map[string][]tenure{}
	for _, t := range c.tenures {
		all[t.name] = append(all[t.name], t)
	}
	for _, one := range all {
		slices.SortFunc(one, func(a, b tenure) int { return int(min(max(a.token-b.token, -1), 1)) })
	}
	return all
}
