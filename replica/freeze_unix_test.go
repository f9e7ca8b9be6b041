//go:build unix

package replica_test

import (
	"sync"
	"syscall"
	"testing"
)

// freeze stops a process until thaw.
func freeze(t *testing.T, pid int) (thaw func()) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
}
