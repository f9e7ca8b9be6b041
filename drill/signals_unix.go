//go:build unix

package drill

import "syscall"

func killPid(pid int) error     { return syscall.Kill(pid, syscall.SIGKILL) }
func stopPid(pid int) error     { return syscall.Kill(pid, syscall.SIGSTOP) }
func continuePid(pid int) error { return syscall.Kill(pid, syscall.SIGCONT) }
