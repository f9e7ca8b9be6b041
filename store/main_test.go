package store

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childDir asks this test binary to be the process that a test kills, see TestKill.
const (
	childDir   = "HOLDFAST_STORE_CHILD"
	childClock = "HOLDFAST_STORE_CLOCK" // the file of its wall clock, see TestClockJumps
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	// After Close the client of a cluster sleeps on: up to a second before a look at the nodes
	// that it then does not take, since dial lets no connection be made, and five seconds before
	// it closes once more a connection that it had replaced, or that of a node which had left.
	// (As storetest.Lingering, which a test inside of this package cannot import.)
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valkey-io/valkey-go.(*call).DelayDo.func1"),
		goleak.IgnoreAnyFunction("github.com/valkey-io/valkey-go.(*clusterClient).redirectOrNew.func1"),
		goleak.IgnoreAnyFunction("github.com/valkey-io/valkey-go.(*clusterClient)._refresh.func2"))
}
