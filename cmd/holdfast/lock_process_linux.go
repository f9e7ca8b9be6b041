package main

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// passedOn are the signals that the command gets in our place.
var passedOn = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// child is a command that runs under a lock. Away from a terminal it is a process group, so that what it
// has started can be ended with it. At one it is not: the terminal has one group in the foreground.
type child struct {
	cmd   *exec.Cmd
	group bool
}

func newChild(cmd *exec.Cmd) *child {
	_, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	c := &child{cmd, err != nil}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: c.group, Pdeathsig: syscall.SIGKILL}
	return c
}

// signal sends a signal to all that is left of it.
func (c *child) signal(s syscall.Signal) {
	pid := c.cmd.Process.Pid
	if c.group {
		pid = -pid
	}
	_ = syscall.Kill(pid, s) // it may have ended
}

// pass passes on a signal that we got. What a terminal sends it sends to the command too.
func (c *child) pass(s os.Signal) {
	if !c.group && slices.Contains([]os.Signal{syscall.SIGINT, syscall.SIGQUIT}, s) {
		return
	}
	if n, ok := s.(syscall.Signal); ok {
		c.signal(n)
	}
}

// endRest waits for what the command has left behind, and kills it when the grace is over.
func (c *child) endRest(kill <-chan time.Time) {
	if !c.group {
		return
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !errors.Is(syscall.Kill(-c.cmd.Process.Pid, 0), syscall.ESRCH) {
		select {
		case <-kill:
			c.signal(syscall.SIGKILL)
			return
		case <-look.C:
		}
	}
}

// statusOf is a command's exit status as shells have it.
func statusOf(p *os.ProcessState) int {
	if w, ok := p.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return exitSignal + int(w.Signal())
	}
	return p.ExitCode()
}
