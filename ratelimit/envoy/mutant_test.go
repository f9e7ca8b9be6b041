package envoy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// With one protection off each, the tests that prove them fail.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds test binaries")
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	program := filepath.Join(t.TempDir(), "mutants.test")
	if out, err := exec.Command(goTool, "test", "-c", "-tags", "mutants", "-ldflags", "-s -w", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for name, c := range map[string]struct{ test, says string }{
		"mutant_reports":     {"^TestReports$/^mem$", "80 of 50 have happened"},
		"mutant_callerstime": {"^TestImpatientCallers$", "unanswered, not a few"},
		"mutant_takespart":   {"^TestSeveralDescriptors$/^mem$", "has counted what was refused"},
	} {
		cmd := exec.Command(program, "-test.run", c.test, "-test.timeout", "2m")
		cmd.Env = append(os.Environ(), "HOLDFAST_MUTANTS="+name)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%s was not noticed: %v\n%s", name, err, out)
		}
	}
}
