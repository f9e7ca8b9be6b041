package store

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// stall holds new decisions back while Pebble holds back writes because the disk is behind.
// They would wait inside of Pebble, with the lock of their slot and past their deadline.
type stall struct{ over atomic.Pointer[chan struct{}] }

func (s *stall) begin(pebble.WriteStallBeginInfo) {
	over := make(chan struct{})
	if old := s.over.Swap(&over); old != nil {
		close(*old)
	}
}

func (s *stall) end() {
	if over := s.over.Swap(nil); over != nil {
		close(*over)
	}
}

func (s *stall) pass(ctx context.Context, timeout time.Duration, ended *failure) error {
	over := s.over.Load()
	if over == nil {
		return nil
	}
	if err := await(ctx, *over, timeout, ended); err != nil {
		return fmt.Errorf("%w: the disk is behind: %w", ErrUnavailable, err)
	}
	return nil
}
