package drill

import "syscall"

// childAttr has the kernel end the child if the drill is killed, which runs no cleanup; and
// keeps a terminal's Ctrl-C from the child, which the drill ends itself.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
