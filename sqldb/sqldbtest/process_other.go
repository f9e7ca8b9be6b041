//go:build unix && !linux

package sqldbtest

import (
	"os/exec"
	"syscall"
)

// account is whom the server runs as; elsewhere than on Linux that is ourselves.
type account struct{}

func unprivileged() (*account, error) { return nil, nil }

func (a *account) own(string) error { return nil }

func (a *account) attr() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// launch starts cmd and closes done when it has ended. Without Linux's parent death
// signal a killed test leaves the server behind.
func launch(cmd *exec.Cmd, done chan struct{}) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	return nil
}

func anyProcessIn(string) bool { return false }

func sweep() {}
