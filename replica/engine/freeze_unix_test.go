//go:build unix

package engine_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica/engine"
)

// An engine that is stopped holds the node's commands no longer than their context.
func TestFrozenEngine(t *testing.T) {
	e := start(t, engine.Config{})
	if err := syscall.Kill(e.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := e.Do(ctx, "PING"); !errors.Is(err, engine.ErrGone) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}
