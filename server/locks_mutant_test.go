package server_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// With one protection off each, the tests that prove them fail.
func TestLockMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a test binary")
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	t.Parallel() // what they fail by is mostly that nothing happens
	bin := filepath.Join(t.TempDir(), "mutants.test")
	if out, err := exec.Command(goTool, "test", "-tags", "mutants", "-ldflags", "-s -w", "-c", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, c := range map[string]struct{ test, says string }{
		"mutant_repeatnew": {"^TestAcquireAgain$/^mem$", "lock-held"},
		"mutant_ghost":     {"^TestLockWaiterGoesAway$/^mem$", "0 wait for away"},
		"mutant_place":     {"^TestLockKeepPlace$/^mem$", "2 wait for keep"},
		"mutant_patient":   {"^TestLockStoreGone$", "took 20"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(bin, "-test.timeout", "2m", "-test.run", c.test)
			cmd.Env = append(os.Environ(), "HOLDFAST_MUTANTS="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.says) {
				t.Errorf("not noticed: %v\n%s", err, out)
			}
		})
	}
}
