package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// place is where a test's locks are, and how to end that without a word.
type lockPlace struct {
	*testing.T
	at   []string
	kill func()
	dir  string
}

// eachPlace runs a test on a server with an embedded store, and on a Redis without a server.
func eachPlace(t *testing.T, fn func(p *lockPlace)) {
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		p := &lockPlace{T: t, dir: t.TempDir()}
		address := free(t)
		s := p.serve(address)
		p.at, p.kill = []string{"--server", "http://" + address}, func() { _ = s.cmd.Process.Kill() }
		fn(p)
	})
	t.Run("store", func(t *testing.T) {
		t.Parallel()
		redis := storetest.Redis(t)
		fn(&lockPlace{T: t, dir: t.TempDir(), at: []string{"--store", redis.URL()}, kill: redis.Kill})
	})
}

func (p *lockPlace) file(name string) string { return filepath.Join(p.dir, name) }

// serve starts a server on an embedded store, and waits for it.
func (p *lockPlace) serve(address string) *process {
	p.Helper()
	ready := p.file("ready")
	_ = os.Remove(ready)
	s := start(p.T, "serve", "--listen", address, "--store", "file:"+p.file("store"), "--db", "sqlite:"+p.file("db"),
		"--provider", "http://127.0.0.1:1", "--ready-file", ready)
	s.address(ready)
	return s
}

// run starts `lock run`: flags, a name, and a script of the shell that finds $DIR.
func (p *lockPlace) run(script string, flags ...string) *process {
	p.Helper()
	args := append([]string{"lock", "run"}, p.at...)
	return start(p.T, append(append(args, flags...), "the lock", "--", "sh", "-c", "DIR="+p.dir+"; "+script)...)
}

func (p *lockPlace) until(what string, ok func() bool) {
	p.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.Fatalf("not within 30 s: %s", what)
		}
	}
}

func (p *lockPlace) text(name string) string {
	text, _ := os.ReadFile(p.file(name)) // it is not there yet
	return strings.TrimSpace(string(text))
}

func (p *lockPlace) untilText(name, want string) {
	p.Helper()
	p.until(name+" is "+want, func() bool { return p.text(name) == want })
}

// say runs another command of `lock`.
func (p *lockPlace) say(command string, args ...string) (string, error) {
	p.Helper()
	var out, errs bytes.Buffer
	err := run(slices.Concat([]string{"lock", command}, p.at, args), &out, &errs)
	return out.String(), err
}

func (p *lockPlace) state() (s server.LockState) {
	p.Helper()
	out, err := p.say("ls", "the lock", "--json")
	if err != nil {
		p.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		p.Fatal(err)
	}
	return s
}

// touch lets a script go on that waits for a file.
func (p *lockPlace) touch(name string) {
	p.Helper()
	if err := os.WriteFile(p.file(name), nil, 0o600); err != nil {
		p.Fatal(err)
	}
}

func (p *lockPlace) wantExit(r *process, want int) {
	p.Helper()
	if code := r.end(); code != want {
		p.Errorf("exit status %d, not %d: %s", code, want, r.err.String())
	}
}

// A command knows its lock and token, and its exit status is ours.
func TestLockRun(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(p *lockPlace) {
		last := int64(0)
		for _, c := range []struct {
			script string
			flags  []string
			code   int
		}{
			{`true`, nil, 0}, {`exit 7`, []string{"--wait", "0"}, 7}, {`kill -9 $$`, []string{"--shared"}, 137},
			{`exit 75`, []string{"--permits", "2", "--of", "3"}, 75},
		} {
			r := p.run(`echo "$HOLDFAST_LOCK_NAME/$HOLDFAST_FENCING_TOKEN"; `+c.script, c.flags...)
			p.wantExit(r, c.code)
			name, number, _ := strings.Cut(strings.TrimSpace(r.out.String()), "/")
			token, err := strconv.ParseInt(number, 10, 64)
			if name != "the lock" || err != nil || token <= last {
				p.Errorf("the command saw %q after token %d", r.out.String(), last)
			}
			last = token
		}
		if s := p.state(); len(s.Holders) != 0 {
			p.Errorf("it is held still: %+v", s)
		}
	})
}

// A second runner waits, or is told that it does not; both are seen.
func TestLockRunWaits(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(p *lockPlace) {
		const script = `echo in >>"$DIR/log"; until [ -e "$DIR/go" ]; do sleep 0.02; done; echo out >>"$DIR/log"`
		first := p.run(script, "--who", "the first")
		p.untilText("log", "in")
		second := p.run(script, "--who", "the second")
		p.until("the second waits", func() bool { return p.state().Waiting == 1 })
		p.wantExit(p.run(script, "--wait", "0"), exitHeld)
		p.wantExit(p.run(script, "--wait", "50ms"), exitHeld)
		p.until("who did not wait has left", func() bool { return p.state().Waiting == 1 })
		for _, args := range [][]string{nil, {"the lock"}} {
			out, err := p.say("ls", args...)
			if err != nil || !strings.Contains(out, "the first") || strings.Contains(out, "waits 1") != (args != nil) {
				p.Errorf("ls %v: %v\n%s", args, err, out)
			}
		}
		p.touch("go")
		p.wantExit(first, 0)
		p.wantExit(second, 0)
		if log := p.text("log"); log != "in\nout\nin\nout" {
			p.Errorf("they ran so: %q", log)
		}
	})
}

// gone says whether no process has the id that a script has written to a file.
func (p *lockPlace) gone(name string) bool {
	pid, err := strconv.Atoi(p.text(name))
	return err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// Who holds a lock that is broken is ended, with all that it has started, also what does not heed SIGTERM.
func TestLockRunBroken(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(p *lockPlace) {
		for _, c := range []struct{ name, script string }{
			{"heeds", `trap 'echo told >"$DIR/told"; exit 3' TERM; echo up >"$DIR/up"; while :; do sleep 0.02; done`},
			{"does not heed", `trap '' TERM; (echo $$ >"$DIR/child"; exec sleep 60) & echo up >"$DIR/up"; while :; do sleep 0.02; done`},
			{"leaves one behind", `sleep 61 & echo $! >"$DIR/child"; (trap '' TERM; exec sleep 60) & echo $! >"$DIR/deaf"; echo up >"$DIR/up"; wait`},
		} {
			for _, name := range []string{"up", "told", "child", "deaf"} {
				_ = os.Remove(p.file(name))
			}
			r := p.run(c.script, "--ttl", "1s", "--grace", "300ms")
			p.untilText("up", "up")
			token := p.state().Holders[0].Token
			if out, err := p.say("break", "the lock", "--reason", "a test", "--token", fmt.Sprint(token)); err != nil || !strings.Contains(out, fmt.Sprint(token)) {
				p.Errorf("break: %v, %s", err, out)
			}
			p.wantExit(r, exitLost)
			if c.name == "heeds" && p.text("told") != "told" {
				p.Errorf("it was not told: %s", r.err.String())
			}
			if !strings.Contains(r.err.String(), "lost") {
				p.Errorf("%s: it said %s", c.name, r.err.String())
			}
			for _, name := range []string{"child", "deaf"} {
				if _, err := os.Stat(p.file(name)); err == nil {
					p.until(c.name+": "+name+" has ended", func() bool { return p.gone(name) })
				}
			}
		}
		if _, err := p.say("break", "the lock", "--reason", "again"); err == nil {
			p.Error("broke what nobody holds")
		}
	})
}

// A name that is held with another number of permits is not waited for.
func TestLockRunWithOtherPermits(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(p *lockPlace) {
		r := p.run(`echo up >"$DIR/up"; until [ -e "$DIR/go" ]; do sleep 0.02; done`, "--permits", "1", "--of", "2")
		p.untilText("up", "up")
		p.wantExit(p.run(`true`, "--permits", "1", "--of", "3", "--wait", "25s"), exitHeld)
		p.touch("go")
		p.wantExit(r, 0)
	})
}

// When nobody can tell any more whether the lock is held, the command ends in time.
func TestLockRunWithoutStore(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(p *lockPlace) {
		r := p.run(`echo up >"$DIR/up"; exec sleep 60`, "--ttl", "2s", "--grace", "1s")
		p.untilText("up", "up")
		began := time.Now()
		p.kill()
		p.wantExit(r, exitLost)
		// The lease's time and some to spare on a busy machine; the command alone would take a minute.
		if took := time.Since(began); took > 15*time.Second {
			p.Errorf("it took %s", took)
		}
		p.wantExit(p.run(`true`), exitUnavailable)
	})
}

// Signals are passed on; one that comes while it waits ends the wait.
func TestLockRunSignals(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(p *lockPlace) {
		r := p.run(`trap 'echo "$(cat "$DIR/log") hup" >"$DIR/log"' HUP; trap 'exit 5' TERM; echo up >"$DIR/log"; while :; do sleep 0.02; done`)
		p.untilText("log", "up")
		waiter := p.run(`true`)
		p.until("one waits", func() bool { return p.state().Waiting == 1 })
		if err := waiter.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			p.Fatal(err)
		}
		p.wantExit(waiter, 128+int(syscall.SIGTERM))
		p.until("it has left the line", func() bool { return p.state().Waiting == 0 })
		if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			p.Fatal(err)
		}
		p.untilText("log", "up hup")
		if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			p.Fatal(err)
		}
		p.wantExit(r, 5)
		if s := p.state(); len(s.Holders) != 0 {
			p.Errorf("it is held still: %+v", s)
		}
	})
}

// A runner that is killed takes its command with it, and keeps others waiting for its lease's time alone.
func TestLockRunKilled(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(p *lockPlace) {
		r := p.run(`echo $$ >"$DIR/pid"; exec sleep 60`, "--ttl", "1s")
		p.until("it runs", func() bool { return p.text("pid") != "" })
		if err := r.cmd.Process.Kill(); err != nil {
			p.Fatal(err)
		}
		r.end()
		p.until("the command has ended", func() bool { return p.gone("pid") })
		p.wantExit(p.run(`true`), 0)
	})
}

// A runner that is stopped for longer than its lease finds the lock lost when it goes on, and ends its
// command, which has worked on meanwhile: what keeps that out is its smaller token.
func TestLockRunStopped(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(p *lockPlace) {
		r := p.run(`echo $HOLDFAST_FENCING_TOKEN >"$DIR/first"; exec sleep 60`, "--ttl", "1s")
		p.until("it runs", func() bool { return p.text("first") != "" })
		if err := r.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			p.Fatal(err)
		}
		p.wantExit(p.run(`echo $HOLDFAST_FENCING_TOKEN >"$DIR/second"`), 0)
		if err := r.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			p.Fatal(err)
		}
		p.wantExit(r, exitLost)
		first, _ := strconv.ParseInt(p.text("first"), 10, 64)
		if second, _ := strconv.ParseInt(p.text("second"), 10, 64); first <= 0 || second <= first {
			p.Errorf("tokens %d, %d", first, second)
		}
	})
}

// A server that is restarted costs nobody a lock; those who wait find it again.
func TestLockRunOverARestart(t *testing.T) {
	t.Parallel()
	p := &lockPlace{T: t, dir: t.TempDir()}
	address := free(t)
	p.at = []string{"--server", "http://" + address}
	s := p.serve(address)
	r := p.run(`echo up >"$DIR/up"; until [ -e "$DIR/go" ]; do sleep 0.02; done`, "--ttl", "20s")
	p.untilText("up", "up")
	waiter := p.run(`echo $HOLDFAST_FENCING_TOKEN >"$DIR/second"`)
	p.until("one waits", func() bool { return p.state().Waiting == 1 })
	token := p.state().Holders[0].Token
	s.terminate()
	s = p.serve(address)
	p.until("it waits again", func() bool { return p.state().Waiting == 1 })
	if h := p.state().Holders; len(h) != 1 || h[0].Token != token {
		t.Errorf("the holder: %+v", h)
	}
	p.touch("go")
	p.wantExit(r, 0)
	p.wantExit(waiter, 0)
	if second, _ := strconv.ParseInt(p.text("second"), 10, 64); second <= token {
		t.Errorf("tokens %d, %d", token, second)
	}
	s.terminate()
}

// A wait that takes several requests is one wait, and what was got late in one is asked for how much is left.
func TestLockWaitInParts(t *testing.T) {
	t.Parallel()
	p := &lockPlace{T: t, dir: t.TempDir()}
	address := free(t)
	p.at = []string{"--server", "http://" + address}
	p.serve(address)
	l := newLocksOfServer("http://"+address, "", slog.New(slog.DiscardHandler))
	defer func() { _ = l.close() }()
	l.oneWait = 100 * time.Millisecond
	ctx := t.Context()
	first, err := l.acquire(ctx, "the lock", want{lock.Request{TTL: 2 * time.Second}, 0})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan int, 2)
	held := make(chan holder, 2)
	for i, each := range []time.Duration{100 * time.Millisecond, 10 * time.Second} {
		mine := newLocksOfServer(l.base, "", l.log)
		mine.oneWait = each
		go func() {
			h, err := mine.acquire(ctx, "the lock", want{lock.Request{TTL: 2 * time.Second}, -1})
			if err != nil {
				t.Error(err)
			}
			served <- i
			held <- h
		}()
		p.until("it waits", func() bool { return p.state().Waiting == int64(i+1) })
	}
	select {
	case i := <-served:
		t.Fatalf("%d has it too", i)
	case <-time.After(time.Second): // ten requests of the first, one of the second
	}
	for _, name := range []string{".", "..", "a/b", "%2E", "ü ?#"} {
		h, err := l.acquire(ctx, name, want{lock.Request{TTL: 2 * time.Second}, 0})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s, err := l.look(ctx, name); err != nil || s.Lock != name || len(s.Holders) != 1 || s.Holders[0].Token != h.Token() {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	if err := first.Release(ctx); err != nil {
		t.Fatal(err)
	}
	for want := range 2 {
		if i := <-served; i != want {
			t.Errorf("%d was served in the place of %d", i, want)
		}
		h := <-held
		select {
		case <-h.Context().Done():
			t.Errorf("lost: %v", context.Cause(h.Context()))
		case <-time.After(100 * time.Millisecond):
		}
		if err := h.Release(ctx); err != nil {
			t.Error(err)
		}
	}
}

func TestLockRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"run", "--store", "file:" + t.TempDir(), "n", "--", "true"}, 1, "--server"},
		{[]string{"run", "--store", "mem:", "n", "true"}, 1, "--server"},
		{[]string{"run", "--store", "redis://127.0.0.1:1", "--server", "http://127.0.0.1:1", "n", "true"}, 1, "not both"},
		{[]string{"run", "--server", "nowhere", "n", "true"}, 1, "http://HOST:PORT"},
		{[]string{"run", "n"}, 1, "command"},
		{[]string{"run", "n", "--"}, 1, "command"},
		{[]string{"run", "n", "--", "no-such-program"}, exitNotFound, "no-such-program"},
		{[]string{"run", "n", "--", os.DevNull}, exitNotRun, os.DevNull},
		{[]string{"run", "--server", "http://127.0.0.1:1", "n", "true"}, exitUnavailable, "127.0.0.1:1"},
		{[]string{"run", "--store", "redis://127.0.0.1:1", "n", "true"}, exitUnavailable, "127.0.0.1:1"},
		{[]string{"break", "n"}, 1, "--reason"},
		{[]string{"ls", "--server", "http://127.0.0.1:1"}, exitUnavailable, "127.0.0.1:1"},
	} {
		p := start(t, append([]string{"lock"}, c.args...)...)
		if code := p.end(); code != c.code || !strings.Contains(p.err.String(), c.says) {
			t.Errorf("%q: status %d, %s", c.args, code, p.err.String())
		}
	}
	eachPlace(t, func(p *lockPlace) {
		for _, c := range [][]string{{"--ttl", "1ms"}, {"--ttl", "2h"}, {"--permits", "2"}, {"--permits", "3", "--of", "2"}, {"--ttl", "5s", "--max-hold", "1s"}} {
			r := p.run(`true`, c...)
			p.wantExit(r, 1)
			if !strings.Contains(r.err.String(), "holdfast: ") {
				p.Errorf("%q: it said %s", c, r.err.String())
			}
		}
	})
}
