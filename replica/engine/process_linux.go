package engine

import (
	"bytes"
	"fmt"
	"os"
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

// Worked is what the engine has had of processors, in a form that only tells whether it has become
// more: one that is stopped gets none, one that runs a long script does. Empty: not known.
func (e *Engine) Worked() string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.Pid()))
	if err != nil {
		return ""
	}
	// pid (name) state ppid …, then user and system time as words 12 and 13; the name may hold anything
	words := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(words) < 13 {
		return ""
	}
	return string(words[11]) + " " + string(words[12])
}
