package replay_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A replay that does not follow the log's clock is noticed.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds test binaries")
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	cmd := exec.Command(goTool, "test", "-tags", "mutants", "-count=1", "-run", "^TestVerdicts$/^fixed_window$", ".")
	cmd.Env = append(os.Environ(), "HOLDFAST_MUTANTS=mutant_replayclock")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "verdicts AARRRR, by hand AARAAR") {
		t.Errorf("it was not noticed: %v\n%s", err, out)
	}
}
