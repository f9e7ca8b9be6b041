package store

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childDir asks this test binary to be the process that a test kills, see TestKill.
const childDir = "HOLDFAST_STORE_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}
