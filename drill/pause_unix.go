//go:build unix

package drill

import "syscall"

// pause stops the child until resume: it is there, and does nothing.
func (c *child) pause() error { return c.cmd.Process.Signal(syscall.SIGSTOP) }

func (c *child) resume() error { return c.cmd.Process.Signal(syscall.SIGCONT) }
