package ratelimit_test

import (
	"os"
	"os/exec"
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
	for name, c := range map[string]struct{ test, says string }{
		"mutant_refusedtakes": {"^TestConformance$/^mem$/^all or nothing$", "counted what it refused"},
		"mutant_takespart":    {"^TestConformance$/^mem$/^all or nothing$", "counted what tight refused"},
		"mutant_fullshare":    {"^TestLocalShare$", "20 of 20 came in"},
		"mutant_leasekept":    {"^TestConformance$/^mem$/^slots$", "the slot of a dead caller comes back"},
	} {
		cmd := exec.Command(goTool, "test", "-tags", "mutants", "-count=1", "-run", c.test, ".")
		cmd.Env = append(os.Environ(), "HOLDFAST_MUTANTS="+name)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%s was not noticed: %v\n%s", name, err, out)
		}
	}
}
