// Package journal is what the processes of a drill write down: a line a step, before it is taken, and a line an answer,
// after it was had.
//
// Promised: a line is there whole or not at all, whenever its process ends, and lines stand in the order of
// their times.
package journal

import (
	"context"
	"encoding/json"
	"os"
	"sync"
	"time"
)

// Journal is a file that one process appends to. It is safe for concurrent use.
type Journal struct {
	mu   sync.Mutex
	file *os.File
	err  error // the first
}

// Open opens a journal, or begins one.
func Open(name string) (*Journal, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &Journal{file: f}, err
}

// Write appends one line by one call of the kernel: what line says of a time, ns since 1970.
func (j *Journal) Write(line func(at int64) any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	text, err := json.Marshal(line(time.Now().UnixNano()))
	if err == nil {
		_, err = j.file.Write(append(text, '\n'))
	}
	if j.err == nil {
		j.err = err
	}
}

// Close closes the file. Errors: the first of all that happened.
func (j *Journal) Close() error {
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

// WatchStalls says when this process did not run, until ctx is done: what it believed then nobody acted upon.
func WatchStalls(ctx context.Context, did func(took time.Duration)) {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	for before := time.Now(); ; before = time.Now() {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		if took := time.Since(before); took > stalled {
			did(took)
		}
	}
}
