package drill

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// nursery starts children from one OS thread that lives as long as the drill. Where the kernel
// can end a child with its parent, it does so when the thread that started it ends.
type nursery struct {
	starts chan func()
	ended  chan struct{}
}

func newNursery() *nursery {
	n := &nursery{starts: make(chan func()), ended: make(chan struct{})}
	go func() {
		defer close(n.ended)
		runtime.LockOSThread() // never unlocked: the thread goes, and with it what was forgotten
		for start := range n.starts {
			start()
		}
	}()
	return n
}

func (n *nursery) close() {
	close(n.starts)
	<-n.ended
}

// child is a process of the drill.
type child struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error // of Wait; read after exited
}

// start runs bin with its output going to the end of the file log.
func (n *nursery) start(bin, log string, args ...string) (*child, error) {
	return n.run(exec.Command(bin, args...), log)
}

func (n *nursery) run(cmd *exec.Cmd, log string) (*child, error) {
	return n.runIn(cmd, log, func(start func() error) error { return start() })
}

// runIn has the child's start wrapped, on the thread that starts it.
func (n *nursery) runIn(cmd *exec.Cmd, log string, enter func(start func() error) error) (*child, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("drill: %w", err)
	}
	defer out.Close() // the child has its own
	c := &child{cmd: cmd, log: log, exited: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = out, out
	if c.cmd.SysProcAttr == nil {
		c.cmd.SysProcAttr = childAttr()
	}
	started := make(chan error)
	n.starts <- func() { started <- enter(c.cmd.Start) }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("drill: %w", err)
	}
	go func() {
		defer close(c.exited)
		c.err = c.cmd.Wait()
	}()
	return c, nil
}

// ready waits until the child has written its address to file.
func (c *child) ready(file string, within time.Duration) (string, error) {
	deadline := time.After(within)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		data, err := os.ReadFile(file)
		switch {
		case err == nil && strings.HasSuffix(string(data), "\n"):
			return strings.TrimSpace(string(data)), nil
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return "", fmt.Errorf("drill: %w", err)
		}
		select {
		case <-poll.C:
		case <-c.exited:
			return "", fmt.Errorf("drill: %s ended before it was ready: %w\n%s", c.cmd.Path, c.err, tail(c.log))
		case <-deadline:
			return "", fmt.Errorf("drill: %s was not ready within %s\n%s", c.cmd.Path, within, tail(c.log))
		}
	}
}

// kill ends the child with SIGKILL and returns when it is gone. It says whether the child was
// still alive.
func (c *child) kill() bool {
	err := c.cmd.Process.Kill()
	<-c.exited
	var exit *exec.ExitError
	return err == nil && errors.As(c.err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// stop asks the child to end, and after grace makes it. The error says what was not clean.
func (c *child) stop(grace time.Duration) error {
	select {
	case <-c.exited:
		return fmt.Errorf("it had ended before: %w", c.err)
	default:
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-c.exited:
		return c.err
	case <-time.After(grace):
		c.kill()
		return fmt.Errorf("it did not end within %s of SIGTERM", grace)
	}
}

// tail is the end of a child's output, for an error.
func tail(file string) string {
	const most = 2000
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(data[max(0, len(data)-most):])
}
