package engine

import (
	"os/exec"
	"runtime"
	"syscall"
)

// launchThread starts the engine so that it dies with this process, and waits for its end.
// The kernel ties "parent" to the thread that started it, so that thread stays.
func launchThread(cmd *exec.Cmd, started chan<- error, exited chan<- struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(exited)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait() // how it ended does not matter, what it said does
	}
}
