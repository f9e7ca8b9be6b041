package lock_test

import (
	"os"
	"os/exec"
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
	for name, c := range map[string]struct{ test, says string }{
		"mutant_endless": {"^TestConformance$/^mem$/^exclusive$", "test timed out"},
	} {
		cmd := exec.Command(goTool, "test", "-tags", "mutants", "-count=1", "-timeout", "5s", "-run", c.test, ".")
		cmd.Env = append(os.Environ(), "HOLDFAST_MUTANTS="+name)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%s was not noticed: %v\n%s", name, err, out)
		}
	}
}
