package drill

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// holderEvent is a line of a holder's journal: a step before it is taken, or an answer after it was had.
type holderEvent struct {
	At       int64  `json:"at"` // ns since 1970
	Kind     string `json:"kind"`
	Op       int    `json:"op"`
	Name     string `json:"name"`
	Token    int64  `json:"token"`
	Owner    string `json:"owner"`
	Careless bool   `json:"careless"`
	Linger   bool   `json:"linger"`
	To       string `json:"to"`
	Status   int    `json:"status"`
	For      int64  `json:"for"` // ns
	Shared   bool   `json:"shared"`
	Permits  int64  `json:"permits"`
	Of       int64  `json:"of"`
	Err      string `json:"err"`
}

// holderProcess is a holder as the drill sees it.
type holderProcess struct{ player[holderEvent] }

// doing is what a holder is about.
type doing int

const (
	nothing doing = iota
	asks
	holds // and has not begun to write
	writes
)

// holding is a holder's last lease, or question.
type holding struct {
	state            doing
	op               int
	name             string
	token            int64
	careless, linger bool
	since            time.Time
	accepted         int // of its writes
	refused          int
	lost             bool
}

func (r *lockRound) startHolder(i int) (*holderProcess, error) {
	h := &holderProcess{player[holderEvent]{index: i, log: filepath.Join(r.dir, fmt.Sprintf("holder-%d.jsonl", i))}}
	args := []string{"drill", "holder", "--resource", "http://" + r.resource, "--names", strings.Join(r.names[:alone], ","), "--shared", r.names[alone], "--pool", r.names[alone+1],
		"--ttl", leaseTTL.String(), "--journal", h.log, "--seed", fmt.Sprint(r.dice), "--who", fmt.Sprint(i)}
	var err error
	h.child, err = r.d.nursery.run(exec.Command(r.d.binary, append(args, r.d.engine.flags(i)...)...), filepath.Join(r.dir, fmt.Sprintf("holder-%d.log", i)))
	return h, err
}

// last is what the holder is about, by its journal.
func (h *holderProcess) last() (s holding) {
	for i := len(h.events) - 1; i >= 0; i-- {
		if h.events[i].Kind == "ask" {
			return holdingOf(h.events[i:])
		}
	}
	return s
}

// holdingOf reads the events of one operation, and what stands between them.
func holdingOf(events []holderEvent) (s holding) {
	s.op = events[0].Op
	for _, e := range events {
		if e.Op != s.op {
			continue
		}
		switch e.Kind {
		case "ask":
			s.state, s.name, s.since = asks, e.Name, time.Unix(0, e.At)
		case "failed", "release":
			s.state = nothing
		case "got":
			s.state, s.token, s.careless, s.linger, s.since = holds, e.Token, e.Careless, e.Linger, time.Unix(0, e.At)
		case "lost":
			s.lost = true
		case "write":
			s.state = writes
		case "wrote":
			switch e.Status {
			case 200:
				s.accepted++
			case 409:
				s.refused++
			}
		}
	}
	return s
}

// operation is what became of one of the holder's operations.
func (h *holderProcess) operation(op int) holding {
	for i := len(h.events) - 1; i >= 0; i-- {
		if h.events[i].Kind == "ask" && h.events[i].Op == op {
			return holdingOf(h.events[i:])
		}
	}
	return holding{}
}
