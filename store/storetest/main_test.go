package storetest

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// orphanEnv asks this test binary to be the process that dies beside its server.
const orphanEnv = "STORETEST_ORPHAN"

func TestMain(m *testing.M) {
	if os.Getenv(orphanEnv) != "" {
		m.Run() // with -test.run=TestOrphanChild, which never ends by itself
		return
	}
	goleak.VerifyTestMain(m, Lingering()...)
}

// TestOrphanChild is TestServerEndsWithItsParent's child.
func TestOrphanChild(t *testing.T) {
	if os.Getenv(orphanEnv) == "" {
		t.Skip("not a test of its own")
	}
	s := Redis(t)
	fmt.Printf("%d %s\n", s.Pid(), s.dir)
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the end
}
