package drill

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

const childMode = "DRILL_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childMode) != "" {
		parent() // this binary again, to be killed
		return
	}
	os.Exit(apart(func() int { return sqldbtest.Run(m.Run) }))
}

// apart gives all tests a temporary directory, which goes with all that they have left in it: tests that run at the
// same time cannot have one of the environment's each.
func apart(tests func() int) int {
	outside = os.TempDir()
	dir, err := os.MkdirTemp(outside, "drill-")
	if err == nil {
		err = os.Setenv("TMPDIR", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binaries = dir
	code := tests()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// parent starts a child as the drill does, names it and waits to be killed.
func parent() {
	n := newNursery()
	c, err := n.start("sleep", os.DevNull, "60")
	if err != nil {
		panic(err)
	}
	fmt.Println("child", c.cmd.Process.Pid)
	time.Sleep(time.Minute)
}

var (
	outside  string // where temporary directories are
	binaries string // where programs are built
	building sync.Mutex
	built    = map[string]string{}
)

// program builds the program; with names of mutants, one in which those are on.
func program(t *testing.T, mutants string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs servers")
	}
	building.Lock()
	defer building.Unlock()
	if built[mutants] != "" {
		return built[mutants]
	}
	if mutants == "" {
		built[""] = build(t, "holdfast")
		return built[""]
	}
	if built["all"] == "" {
		built["all"] = build(t, "holdfast-mutants", "-tags", "mutants")
	}
	// A script in its place: what the program starts is of the same kind.
	to := filepath.Join(binaries, mutants)
	script := fmt.Sprintf("#!/bin/sh\nHOLDFAST_MUTANTS=%s exec %s \"$@\"\n", mutants, built["all"])
	if err := os.WriteFile(to, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	built[mutants] = to
	return to
}

func build(t *testing.T, name string, flags ...string) (path string) {
	t.Helper()
	path = filepath.Join(binaries, name)
	args := append(append([]string{"build", "-ldflags", "-s -w"}, flags...), "-o", path, "../cmd/holdfast")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// temporary gives what a run leaves a place that goes with the test.
func temporary(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp(outside, "drill-") // not below the tests' own: nodes' sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", dir)
}

// leavingNothing has the parallel tests below t share a temporary directory, in which nothing may be left after them.
func leavingNothing(t *testing.T) {
	t.Helper()
	temporary(t)
	t.Cleanup(func() { nothingLeft(t) })
}

// smallStorm is a test that mostly waits, but judges by the clock what has to pass.
type smallStorm struct {
	name string
	run  func(*testing.T)
}

// inLines runs them in so many lines at a time.
func inLines(t *testing.T, lines int, storms []smallStorm) {
	t.Helper()
	for line := range lines {
		t.Run(fmt.Sprint(line+1), func(t *testing.T) {
			if lines > 1 {
				t.Parallel()
			}
			for i := line; i < len(storms); i += lines {
				t.Run(storms[i].name, storms[i].run)
			}
		})
	}
}

// nothingLeft fails when a run has left something behind.
func nothingLeft(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		t.Errorf("%s was left behind", entry.Name())
	}
	engines, err := filepath.Glob(fmt.Sprintf("/tmp/holdfast-engines-%d-*", os.Getpid()))
	if err != nil || len(engines) > 0 {
		t.Errorf("left behind: %q, %v", engines, err)
	}
}

// needed is a program that a test cannot do without.
func needed(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		missing(t, err.Error())
	}
}

// missing ends a test whose engine is not there: on a laptop that is no fault of the code, in CI
// a test that silently does not run is.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("CI=true and %s", why)
	}
	t.Skip(why)
}

// until polls for a state.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
