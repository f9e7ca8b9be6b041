package replica_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Protections of the parts, each switched off in a build of the tests that has to notice. (Those
// that show from outside only, the failover drill notices.) One build of a package has all of them.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds test binaries")
	}
	need(t)
	goTool, err := exec.LookPath("go")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no go command in CI")
		}
		t.Skip("no go command")
	}
	bin := t.TempDir()
	for _, c := range []struct{ name, in, test, says string }{
		{"mutant_nofsync", ".", "TestPowerLoss", "acknowledged writes are missing"},
		{"mutant_nofsync", "consensus", "TestPowerLoss", "still not: all that was told"},
		{"mutant_lateverify", "consensus", "TestLateAnswersDoNotVerify", "an answer from before the question verified"},
		{"mutant_noverify", "gate", "TestReadsNeedLeadership", "left before it was committed"},
		{"mutant_stay", "sentinel", "TestSwitch", "the third leads, and it names"},
		{"mutant_gateoff", "gate", "TestHeldUntilCommitted", "left before it was committed"},
		{"mutant_anypassword", ".", "TestOnePassword", "has joined"},
	} {
		program := filepath.Join(bin, filepath.Base(c.in)+".test")
		if _, err := os.Stat(program); err != nil {
			build := exec.Command(goTool, "test", "-c", "-tags", "mutants", "-ldflags", "-s -w", "-o", program, "./"+c.in)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("build: %v\n%s", err, out)
			}
		}
		t.Run(c.name+"/"+c.in, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(program, "-test.run", "^"+c.test+"$")
			cmd.Dir, cmd.Env = c.in, append(os.Environ(), "HOLDFAST_MUTANTS="+c.name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.says) {
				t.Fatalf("not noticed: %v\n%s", err, out)
			}
		})
	}
}
