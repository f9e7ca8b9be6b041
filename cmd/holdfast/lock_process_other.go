//go:build !linux

package main

import (
	"os"
	"os/exec"
	"syscall"
	"time"
)

// passedOn are the signals that the command gets in our place.
var passedOn = []os.Signal{os.Interrupt, syscall.SIGTERM}

// child is a command that runs under a lock. What it has started is not ended with it here.
type child struct{ cmd *exec.Cmd }

func newChild(cmd *exec.Cmd) *child { return &child{cmd} }

func (c *child) signal(s syscall.Signal) {
	if c.cmd.Process.Signal(s) != nil && s == syscall.SIGTERM {
		_ = c.cmd.Process.Kill() // where there are no signals
	}
}

func (c *child) pass(s os.Signal) { _ = c.cmd.Process.Signal(s) }

func (c *child) endRest(<-chan time.Time) {}

func statusOf(p *os.ProcessState) int { return p.ExitCode() }
