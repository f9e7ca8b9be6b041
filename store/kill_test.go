package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const childWorkers = 8

// child is the process that gets killed: workers make steps for ever, and each prints its step
// when, and only when, it was acknowledged.
func child(dir string) {
	s, err := Open(context.Background(), "file:"+dir, Options{MaxBytes: 64 << 20, Clock: fileClock(os.Getenv(childClock))})
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
				fmt.Println(i, out.N, out.Now)
			}
		})
	}
	wg.Wait()
}

// fileClock is the wall clock of a process, put forward or back by as many µs as are written in a
// file; nil without a file.
func fileClock(name string) func() time.Time {
	if name == "" {
		return nil
	}
	return func() time.Time {
		text, _ := os.ReadFile(name) // not there yet: not put forward
		us, _ := strconv.ParseInt(string(text), 10, 64)
		return time.Now().Add(time.Duration(us) * time.Microsecond)
	}
}

// worked is how far a worker has come.
type worked struct{ step, now int64 }

// kill starts a child on dir, lets it work and kills it. It returns each worker's last
// acknowledged step.
func kill(t *testing.T, dir string, after time.Duration) (acked [childWorkers]worked) {
	t.Helper()
	return killUnder(t, dir, "", func() { time.Sleep(after) })
}

// killUnder is kill with the child's clock in a file; fault comes before the kill.
func killUnder(t *testing.T, dir, clock string, fault func()) (acked [childWorkers]worked) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childClock+"="+clock)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var over chan struct{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if over == nil { // from the first acknowledgement on
			expectLocked(t, dir)
			over = make(chan struct{})
			go func() { defer close(over); fault(); _ = cmd.Process.Kill() }()
		}
		var i int
		var w worked
		if _, err := fmt.Sscanf(lines.Text(), "%d %d %d", &i, &w.step, &w.now); err != nil {
			t.Errorf("the child says: %s", lines.Text())
			_ = cmd.Process.Kill()
			break
		}
		if w.now < acked[i].now {
			t.Errorf("worker %d: the engine's clock went back from %d to %d", i, acked[i].now, w.now)
		}
		acked[i] = w
	}
	_ = cmd.Wait() // it was killed
	if over == nil {
		t.Fatal("the child ended by itself")
	}
	select {
	case <-over:
	case <-time.After(10 * time.Second): // the fault's own time
		t.Fatal("the child ended by itself")
	}
	return acked
}

// compareSteps compares what a child has told with what is there.
func compareSteps(t *testing.T, s *Store, acked [childWorkers]worked) (total int64) {
	t.Helper()
	for i, want := range acked {
		// One more can have been decided whose acknowledgement the kill cut off.
		if got := steps(t, s, i); got != want.step && got != want.step+1 && want.step != 0 {
			t.Errorf("worker %d: %d steps were acknowledged, %d are there", i, want.step, got)
		}
		total += want.step
	}
	return total
}

// TestClockJumps puts the wall clock of a process forward and back, by up to two days, while it
// decides, and kills it: the engine's clock goes back neither in it nor over the restart, decisions
// go on, and nothing that was acknowledged is missing.
func TestClockJumps(t *testing.T) {
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	r := newRand(t)
	dir, file := t.TempDir()+"/store", t.TempDir()+"/clock"
	var total, latest int64
	for range rounds {
		acked := killUnder(t, dir, file, func() {
			for range 5 {
				jump := r.Int64N(4*24*3600_000_000) - 2*24*3600_000_000
				if err := os.WriteFile(file+".new", []byte(strconv.FormatInt(jump, 10)), 0o600); err != nil {
					t.Error(err)
				}
				if err := os.Rename(file+".new", file); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Duration(10+r.IntN(60)) * time.Millisecond) // how long it stays so is dealt
			}
		})
		for i, w := range acked {
			if w.now != 0 && w.now < latest {
				t.Errorf("worker %d: after a restart the clock says %d, before it said %d", i, w.now, latest)
			}
		}
		for _, w := range acked {
			latest = max(latest, w.now)
		}
		s, err := Open(context.Background(), "file:"+dir, Options{Clock: fileClock(file)})
		if err != nil {
			t.Fatal(err)
		}
		total += compareSteps(t, s, acked)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if total == 0 {
		t.Error("nothing was acknowledged, so nothing was tested")
	}
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
		total += compareSteps(t, s, acked)
		verifyFormat(t, s.engine.(*reopening).current())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if total == 0 {
		t.Error("nothing was acknowledged, so nothing was tested")
	}
}
