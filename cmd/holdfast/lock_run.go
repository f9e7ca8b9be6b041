package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/store"
)

// What 'lock run' exits with when it is not the command's own status.
const (
	exitUnavailable = 69 // neither store nor server could be asked
	exitHeld        = 75 // the lock was not got
	exitLost        = 76 // the lock was lost before the command had ended
	exitNotRun      = 126
	exitNotFound    = 127
	exitSignal      = 128 // and the signal's number
)

type lockRunCmd struct {
	lockAt
	Wait    *time.Duration `help:"Stand in line for the lock no longer than this; 0: not at all. Otherwise without end."`
	TTL     time.Duration  `name:"ttl" help:"Life of the lease, which is renewed while the command runs: how long others wait after this machine has died." default:"10s"`
	MaxHold time.Duration  `help:"Longest that the lock is held; then the command is ended." default:"24h"`
	Shared  bool           `help:"Others who ask for it shared may have it at the same time."`
	Permits int64          `help:"The lock is a semaphore, of which so many permits are wanted. Needs --of."`
	Of      int64          `help:"How many permits there are in all."`
	Who     string         `help:"Who holds it, for people who look; otherwise host name and process id."`
	Grace   time.Duration  `help:"When the lock is lost the command gets SIGTERM, and SIGKILL after so long." default:"5s"`
	Name    string         `arg:"" help:"The lock: 1..512 bytes."`
	Command []string       `arg:"" passthrough:"" help:"The command and its arguments, behind --."`
}

// Help is what is to be known of the command.
func (*lockRunCmd) Help() string {
	return `The command finds HOLDFAST_LOCK_NAME and HOLDFAST_FENCING_TOKEN in its environment. Whatever it writes to should refuse a
smaller token than one it has seen: a process that is stopped for longer than its lease does not notice.

Signals are passed on. When the lock is lost, the command is ended, and, unless standard input is a terminal, everything
that it has started. The lock is released when the command has ended, whatever it leaves running.

Exit status: the command's own; 128 + n if signal n ended it, or ended the wait; 75 if the lock was not got (at once, if
it is held with another number of permits); 76 if it was lost before the command had ended; 69 if the store or the
server cannot be reached; 126 or 127 if the command cannot be run or found; 1 for everything else.`
}

// Run runs the command under the lock.
func (c *lockRunCmd) Run(e *env) (err error) {
	command := c.Command
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		return errors.New("there is no command: holdfast lock run NAME -- COMMAND")
	}
	program, err := exec.LookPath(command[0]) // before the lock is waited for
	if err != nil {
		return cannotRun(err)
	}
	sigs := make(chan os.Signal, 16)
	signal.Notify(sigs, passedOn...)
	defer signal.Stop(sigs)
	l, err := c.open(e)
	if err != nil {
		return outcome(err)
	}
	defer func() { err = errors.Join(err, l.close()) }()
	h, err := c.acquire(l, sigs)
	if err != nil {
		return outcome(err)
	}
	status, err := c.under(e, h, program, command, sigs)
	return errors.Join(err, c.release(e, h, status))
}

// acquire waits for the lock, unless a signal ends that.
func (c *lockRunCmd) acquire(l locks, sigs <-chan os.Signal) (holder, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if c.Who == "" {
		host, _ := os.Hostname() // it is for people only
		c.Who = fmt.Sprintf("%.150s/%d", host, os.Getpid())
	}
	wait := time.Duration(-1)
	if c.Wait != nil {
		wait = max(*c.Wait, 0)
	}
	type result struct {
		holder
		err error
	}
	got := make(chan result, 1)
	go func() {
		h, err := l.acquire(ctx, c.Name, want{lock.Request{Shared: c.Shared, Permits: c.Permits, Of: c.Of, TTL: c.TTL, MaxHold: c.MaxHold, Who: c.Who}, wait})
		got <- result{h, err}
	}()
	select {
	case r := <-got:
		return r.holder, r.err
	case s := <-sigs:
		cancel()
		if r := <-got; r.err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
			defer cancel()
			_ = r.Release(ctx) // it ends by itself otherwise
		}
		return nil, &exit{code: exitSignal + number(s)}
	}
}

// under runs the command until it ends, or ends it when the lock is lost.
func (c *lockRunCmd) under(e *env, h holder, program string, command []string, sigs <-chan os.Signal) (status int, err error) {
	runtime.LockOSThread() // the kernel ends the command with the thread that started it
	defer runtime.UnlockOSThread()
	cmd := exec.Command(program, command[1:]...)
	cmd.Args[0] = command[0]
	cmd.Env = append(os.Environ(), "HOLDFAST_LOCK_NAME="+c.Name, "HOLDFAST_FENCING_TOKEN="+strconv.FormatInt(h.Token(), 10))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, e.out, e.errs
	child := newChild(cmd)
	if err := cmd.Start(); err != nil {
		return 0, cannotRun(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the process's state says how it ended
		close(ended)
	}()
	lost := h.Context().Done()
	if mutant.RunsOn {
		lost = nil
	}
	var kill <-chan time.Time
	killed := false
	for {
		select {
		case s := <-sigs:
			child.pass(s)
		case <-lost:
			lost = nil
			e.logger.Warn("the lock is lost; ending the command", "lock", c.Name, "cause", context.Cause(h.Context()))
			child.signal(syscall.SIGTERM)
			kill = time.After(c.Grace)
		case <-kill:
			child.signal(syscall.SIGKILL)
			killed = true
		case <-ended:
			if lost == nil && !killed { // what was killed does nothing any more, also where nobody has buried it yet
				child.endRest(kill)
			}
			return statusOf(cmd.ProcessState), nil
		}
	}
}

// release gives the lock back, and says what to exit with.
func (c *lockRunCmd) release(e *env, h holder, status int) error {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	err := h.Release(ctx)
	switch {
	case errors.Is(err, lock.ErrLost):
		return &exit{exitLost, fmt.Errorf("the lock %s was lost before the command had ended", shown(c.Name))}
	case err != nil:
		e.logger.Warn("the lock could not be released; it ends by itself", "lock", c.Name, "within", c.TTL, "error", err)
	}
	if status != 0 {
		return &exit{code: status}
	}
	return nil
}

// outcome is what to exit with when there is no lock.
func outcome(err error) error {
	var own *exit
	switch {
	case errors.As(err, &own):
		return err
	case errors.Is(err, lock.ErrHeld), errors.Is(err, lock.ErrTooMany), errors.Is(err, lock.ErrMode):
		return &exit{exitHeld, err}
	case unreachable(err):
		return &exit{exitUnavailable, err}
	}
	return err
}

func cannotRun(err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return &exit{exitNotFound, err}
	}
	return &exit{exitNotRun, err}
}

func number(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return int(n)
	}
	return 0
}

// unreachable says whether nobody could be asked, or nobody could answer.
func unreachable(err error) bool {
	var p *problem
	var u *url.Error
	return errors.As(err, &p) && p.status == http.StatusServiceUnavailable || errors.As(err, &u) ||
		errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrOutcomeUnknown)
}
