package ratelimit_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// With one protection off each, the tests that prove them fail. One build has all of them.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a test binary")
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	binary := filepath.Join(t.TempDir(), "mutants")
	if out, err := exec.Command(goTool, "test", "-c", "-tags", "mutants", "-ldflags", "-s -w", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for name, c := range map[string]struct{ test, says string }{
		"mutant_refusedtakes": {"^TestConformance$/^mem$/^all or nothing$", "counted what it refused"},
		"mutant_takespart":    {"^TestConformance$/^mem$/^all or nothing$", "counted what tight refused"},
		"mutant_fullshare":    {"^TestLocalShare$", "20 of 20 came in"},
		"mutant_halfreload":   {"^TestReloadFiles$", "the old rules have gone"},
		"mutant_leasekept":    {"^TestConformance$/^mem$/^slots$", "the slot of a dead caller comes back"},
		"mutant_leaseendless": {"^TestFleetBound$", "units in"},
		"mutant_backtwice":    {"^TestFleetBound$", "units in"},
		"mutant_leaseuntold":  {"^TestFleetUses$", "were admitted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(binary, "-test.run", c.test, "-rapid.nofailfile", "-rapid.checks=1000", "-rapid.shrinktime=0s")
			cmd.Env = append(os.Environ(), "HOLDFAST_MUTANTS="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.says) {
				t.Errorf("%s was not noticed: %v\n%s", name, err, out)
			}
		})
	}
}
