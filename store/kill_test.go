package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

const childWorkers = 8

// child is the process that gets killed: workers make steps for ever, and each prints its step
// when, and only when, it was acknowledged.
func child(dir string) {
	s, err := Open(context.Background(), "file:"+dir, Options{MaxBytes: 64 << 20})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for i := range childWorkers {
		wg.Go(func() {
			in := worker(i, strings.Repeat("x", 300)) // enough for the log to be changed now and then
			for {
				out, err := step.Do(context.Background(), s, in)
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				fmt.Println(i, out.N)
			}
		})
	}
	wg.Wait()
}

// kill starts a child on dir, lets it work and kills it. It returns each worker's last
// acknowledged step.
func kill(t *testing.T, dir string, after time.Duration) (acked [childWorkers]int64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var timer *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if timer == nil { // from the first acknowledgement on
			expectLocked(t, dir)
			timer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		var i int
		var n int64
		if _, err := fmt.Sscanf(lines.Text(), "%d %d", &i, &n); err != nil {
			t.Errorf("the child says: %s", lines.Text())
			_ = cmd.Process.Kill()
			break
		}
		acked[i] = n
	}
	_ = cmd.Wait() // it was killed
	if timer == nil || timer.Stop() {
		t.Fatal("the child ended by itself")
	}
	return acked
}

// expectLocked opens a directory that another process has.
func expectLocked(t *testing.T, dir string) {
	t.Helper()
	s, err := Open(context.Background(), "file:"+dir, Options{})
	if err == nil {
		_ = s.Close()
	}
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second process: %v, want ErrLocked with the directory's name", err)
	}
}

// TestKill kills a process at random moments with SIGKILL. Of what it said was done nothing
// may be missing, and nothing may be half done.
func TestKill(t *testing.T) {
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	r := newRand(t)
	dir := t.TempDir() + "/store"
	var total int64
	for range rounds {
		acked := kill(t, dir, time.Duration(1+r.IntN(250))*time.Millisecond)
		s, err := Open(context.Background(), "file:"+dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range acked {
			// One more can have been decided whose acknowledgement the kill cut off.
			if got := steps(t, s, i); got != want && got != want+1 && want != 0 {
				t.Errorf("worker %d: %d steps were acknowledged, %d are there", i, want, got)
			}
			total += want
		}
		verifyFormat(t, s.engine.(*reopening).current())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if total == 0 {
		t.Error("nothing was acknowledged, so nothing was tested")
	}
}
