package drill

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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

// holderProcess is a holder as the drill sees it: a process, and its journal.
type holderProcess struct {
	index  int
	child  *child
	log    string
	file   *os.File // its journal
	read   int64
	events []holderEvent
	killed bool // by the drill
}

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
	h := &holderProcess{index: i, log: filepath.Join(r.dir, fmt.Sprintf("holder-%d.jsonl", i))}
	args := []string{"drill", "holder", "--resource", "http://" + r.resource, "--names", strings.Join(r.names[:alone], ","), "--shared", r.names[alone], "--pool", r.names[alone+1],
		"--ttl", leaseTTL.String(), "--journal", h.log, "--seed", fmt.Sprint(r.dice), "--who", fmt.Sprint(i)}
	var err error
	h.child, err = r.d.nursery.run(exec.Command(r.d.Binary, append(args, r.d.engine.flags(i)...)...), filepath.Join(r.dir, fmt.Sprintf("holder-%d.log", i)))
	return h, err
}

// catchUp reads what the holder has written since the last time.
func (h *holderProcess) catchUp() (err error) {
	if h.file == nil {
		if h.file, err = os.Open(h.log); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	for {
		buf := make([]byte, 16<<10) // many lines; the last one may be whole by the next time
		n, err := h.file.ReadAt(buf, h.read)
		whole := buf[:bytes.LastIndexByte(buf[:n], '\n')+1]
		h.read += int64(len(whole))
		for line := range bytes.Lines(whole) {
			var e holderEvent
			if err := json.Unmarshal(line, &e); err != nil {
				return fmt.Errorf("drill: %s: %w", h.log, err)
			}
			h.events = append(h.events, e)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("drill: %w", err)
		case len(whole) == 0:
			return fmt.Errorf("drill: %s: a line has more than %d bytes", h.log, n)
		}
	}
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
