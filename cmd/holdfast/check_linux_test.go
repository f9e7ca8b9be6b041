package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A check says that this user may not write, also where it is to make a directory first.
func TestConfigCheckMayNotWrite(t *testing.T) {
	dir, err := os.MkdirTemp("", "check-") // its parent is everybody's
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		if os.Geteuid() == 0 {
			_ = unix.Setfsuid(65534) // of this thread; root may write everywhere
		}
		done <- place(filepath.Join(dir, "a", "b"), true)
	}()
	if err := <-done; !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "not writable") {
		t.Error(err)
	}
}
