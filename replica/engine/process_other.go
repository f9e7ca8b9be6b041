//go:build !linux

package engine

import "os/exec"

// launchThread starts the engine and waits for its end. It outlives a node that is killed;
// it takes no writes then (min-replicas-to-write).
func launchThread(cmd *exec.Cmd, started chan<- error, exited chan<- struct{}) {
	defer close(exited)
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait() // how it ended does not matter, what it said does
	}
}

// Worked is not known here.
func (e *Engine) Worked() string { return "" }
