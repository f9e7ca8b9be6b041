package storetest

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel end the server if the test binary is killed, which runs no
// cleanup.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
