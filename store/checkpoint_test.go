package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A checkpoint has what was acknowledged before it, nothing that began after it, and can be
// opened while its origin goes on.
func TestCheckpoint(t *testing.T) {
	dir := t.TempDir()
	s := openURL(t, "file:"+filepath.Join(dir, "store"), Options{})
	const callers = 8
	var done [callers]atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := incr.Do(context.Background(), s, keyIn{fmt.Sprint(i)}); err != nil {
					t.Error(err)
					return
				}
				done[i].Add(1)
			}
		})
	}
	for round := range 5 {
		eventually(t, "all have begun", func() bool {
			for i := range callers {
				if done[i].Load() < int64(round+1)*20 {
					return false
				}
			}
			return true
		})
		var before, after [callers]int64
		for i := range callers {
			before[i] = done[i].Load()
		}
		cut := filepath.Join(dir, fmt.Sprint("cut", round))
		if err := s.Checkpoint(context.Background(), cut); err != nil {
			t.Fatal(err)
		}
		for i := range callers {
			after[i] = done[i].Load() + 1 // its answer may be on the way
		}
		restored := openURL(t, "file:"+cut, Options{})
		for i := range callers {
			n, err := look.Do(context.Background(), restored, keyIn{fmt.Sprint(i)})
			if err != nil || n.N < before[i] || n.N > after[i] {
				t.Errorf("round %d: %d, want %d to %d (%v)", round, n.N, before[i], after[i], err)
			}
		}
		verifyFormat(t, restored.engine.(*reopening).current())
	}
	stop()
	all.Wait()
}

func TestCheckpointRefuses(t *testing.T) {
	dir := t.TempDir()
	s := openURL(t, "file:"+filepath.Join(dir, "store"), Options{})
	if err := s.Checkpoint(context.Background(), dir); !errors.Is(err, ErrConfig) {
		t.Errorf("a directory that is there: %v", err)
	}
	if err := openURL(t, "mem:", Options{}).Checkpoint(context.Background(), filepath.Join(dir, "x")); !errors.Is(err, ErrConfig) {
		t.Errorf("mem: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Checkpoint(ctx, filepath.Join(dir, "y")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("too late: %v", err)
	}
}

// A checkpoint on a disk that does not answer holds nobody longer than Timeout.
func TestCheckpointHangs(t *testing.T) {
	files := &brake{FS: vfs.NewCrashableMem()}
	s, e := openOn(t, files, Options{Timeout: 50 * time.Millisecond})
	if _, err := incr.Do(context.Background(), s, keyIn{"k"}); err != nil {
		t.Fatal(err)
	}
	release := files.hold()
	defer release()
	made := make(chan error, 1)
	go func() { made <- e.checkpoint(context.Background(), "/dir/cut") }()
	eventually(t, "it is being made", func() bool {
		e.mu.RLock()
		defer e.mu.RUnlock()
		return e.pause != nil
	})
	began := time.Now()
	if _, err := incr.Do(context.Background(), s, keyIn{"k"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("a caller waited %s", took)
	}
	if err := e.checkpoint(context.Background(), "/dir/other"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a second one: %v", err)
	}
	release()
	if err := <-made; err != nil {
		t.Error(err)
	}
	if out, err := incr.Do(context.Background(), s, keyIn{"k"}); err != nil || out.N != 2 {
		t.Errorf("afterwards %+v %v", out, err)
	}
}
