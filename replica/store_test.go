package replica_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/store"
)

// nodesURL is the cluster as a store.
func (w *world) nodesURL() string {
	var all []string
	for _, m := range w.nodes {
		all = append(all, m.clients)
	}
	return "holdfast://" + strings.Join(all, ",")
}

func TestStoreOnNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	s, err := store.Open(t.Context(), w.nodesURL(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if s.Class() != store.ClassA {
		t.Fatalf("class %s", s.Class())
	}
	w.kill(w.leader())
	w.leader()
	w.eventually("the store goes on", func() bool { return s.Ping(t.Context()) == nil })
}

// The suite that every store has to pass, on three nodes.
func TestStoreSuites(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds test binaries")
	}
	w := newWorld(t, 3)
	cmd := exec.Command("go", "test", "-count=1", "-run", "TestConformance/given", "-v", "../store")
	cmd.Env = append(os.Environ(), "STORETEST_URL="+w.nodesURL())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestConformance/given") {
		t.Fatalf("%v\n%s", err, out)
	}
}
