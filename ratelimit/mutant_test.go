package ratelimit_test

import (
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
	for tag, c := range map[string]struct{ test, says string }{
		"mutant_refusedtakes": {"^TestConformance$/^mem$/^all or nothing$", "counted what it refused"},
		"mutant_takespart":    {"^TestConformance$/^mem$/^all or nothing$", "counted what tight refused"},
		"mutant_fullshare":    {"^TestLocalShare$", "20 of 20 came in"},
		"mutant_leasekept":    {"^TestConformance$/^mem$/^slots$", "the slot of a dead caller comes back"},
	} {
		out, err := exec.Command(goTool, "test", "-tags", tag, "-count=1", "-run", c.test, ".").CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%s was not noticed: %v\n%s", tag, err, out)
		}
	}
}
