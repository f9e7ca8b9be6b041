package holder

import (
	"context"
	"encoding/json"
	"os"
	"sync"
	"time"
)

// Event is a line of a holder's journal. The drill reads the same by a type of its own.
type Event struct {
	At       int64  `json:"at"` // ns since 1970
	Kind     string `json:"kind"`
	Op       int    `json:"op,omitempty"`
	Name     string `json:"name,omitempty"`
	Token    int64  `json:"token,omitempty"`
	Owner    string `json:"owner,omitempty"`
	Careless bool   `json:"careless,omitempty"`
	Linger   bool   `json:"linger,omitempty"`
	To       string `json:"to,omitempty"`
	Status   int    `json:"status,omitempty"`
	For      int64  `json:"for,omitempty"` // ns
	Shared   bool   `json:"shared,omitempty"`
	Permits  int64  `json:"permits,omitempty"`
	Of       int64  `json:"of,omitempty"`
	Err      string `json:"err,omitempty"`
}

// journal is a file that one process appends to.
type journal struct {
	mu   sync.Mutex
	file *os.File
	err  error // the first
}

func openJournal(name string) (*journal, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &journal{file: f}, err
}

// write appends one line by one call of the kernel, so that it is there whole or not at all.
func (j *journal) write(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.At = time.Now().UnixNano()
	line, err := json.Marshal(e)
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if j.err == nil {
		j.err = err
	}
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.file.Close(); j.err == nil {
		j.err = err
	}
	return j.err
}

const (
	tick    = 20 * time.Millisecond
	stalled = 60 * time.Millisecond
)

// watchStalls notes when this process did not run: what it believed then nobody acted upon.
func (j *journal) watchStalls(ctx context.Context) {
	for ctx.Err() == nil {
		before := time.Now()
		pause(ctx, tick)
		if took := time.Since(before); took > stalled {
			j.write(Event{Kind: "stall", For: took.Nanoseconds()})
		}
	}
}
