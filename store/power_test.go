package store

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// storm lets workers make steps until it is told to stop. acked holds each one's last step
// that was acknowledged.
type storm struct {
	acked []atomic.Int64
	quit  atomic.Bool
	wg    sync.WaitGroup
}

func startStorm(t testing.TB, s *Store, workers int, pad string) *storm {
	st := &storm{acked: make([]atomic.Int64, workers)}
	for i := range workers {
		st.wg.Go(func() {
			for !st.quit.Load() {
				out, err := step.Do(context.Background(), s, worker(i, pad))
				if err != nil {
					t.Error(err)
					return
				}
				st.acked[i].Store(out.N)
			}
		})
	}
	return st
}

func (st *storm) snapshot() []int64 {
	all := make([]int64, len(st.acked))
	for i := range st.acked {
		all[i] = st.acked[i].Load()
	}
	return all
}

func (st *storm) stop() {
	st.quit.Store(true)
	st.wg.Wait()
}

// TestPowerLoss cuts the power at random moments: the file system loses what was not synced,
// or keeps a random part of it. What was acknowledged before is there, and a reader never saw
// what is not.
//
// TestPowerLossMutant shows that it fails when answers do not wait for the sync.
func TestPowerLoss(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	r := newRand(t)
	files := vfs.NewCrashableMem()
	var last, steady int64
	for round := range rounds {
		// A small bound makes small buffers, so that logs and files are changed often.
		s, e := openOn(t, files, Options{MaxBytes: 8 << 20})
		st := startStorm(t, s, 6, strings.Repeat("x", r.IntN(2000)))
		time.Sleep(time.Duration(1+r.IntN(25)) * time.Millisecond) // not a state: any moment will do
		acked := st.snapshot()
		after := files.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: []int{0, 0, 30, 100}[r.IntN(4)],
			RNG:                 rand.New(rand.NewPCG(r.Uint64(), 0)),
		})
		st.stop()
		if err := e.close(); err != nil {
			t.Fatal(err)
		}

		s, e = openOn(t, after, Options{})
		var sum int64
		for i, want := range acked {
			got := steps(t, s, i)
			if got < want {
				t.Fatalf("round %d, worker %d: %d steps were acknowledged before the power went, %d are there", round, i, want, got)
			}
			sum += got
		}
		if sum > last {
			steady++
		}
		last = sum
		verifyFormat(t, e)
		if err := e.close(); err != nil {
			t.Fatal(err)
		}
		files = after
		if round%8 == 7 {
			files, last = vfs.NewCrashableMem(), 0
		}
	}
	if steady < int64(rounds)/2 {
		t.Errorf("only %d of %d rounds made steps", steady, rounds)
	}
}

// TestSyncMutant runs TestPowerLoss and TestKill in a build whose answers do not wait for the
// sync. Both have to notice.
func TestSyncMutant(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a test binary")
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no go command in CI")
		}
		t.Skip("no go command")
	}
	args := []string{"test", "-tags", "mutants", "-count=1", "-run", "^(TestPowerLoss|TestKill)$", "."}
	if raceEnabled() {
		args = append(args[:1], append([]string{"-race"}, args[1:]...)...) // shares the build cache
	}
	cmd := exec.Command(goTool, args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_MUTANTS=mutant_nosync")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("answers that do not wait for the sync were not noticed:\n%s", out)
	}
	for _, saw := range []string{"steps were acknowledged before the power went", "steps were acknowledged, "} {
		if !strings.Contains(string(out), saw) {
			t.Fatalf("nothing says %q:\n%s", saw, out)
		}
	}
}

func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}
