//go:build !linux

package replica_test

import "testing"

type tmpfs struct{ dir string }

func newTmpfs(t *testing.T, _ int64) *tmpfs {
	t.Skip("a file system of its own is made on Linux only: A REAL FULL DISK IS NOT TRIED")
	return nil
}

func (*tmpfs) fill(int64) {}
func (*tmpfs) empty()     {}
