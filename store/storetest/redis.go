package storetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	startWithin = 10 * time.Second // loading a small append-only file included
	pollEvery   = 2 * time.Millisecond
)

// Server is a Redis or Valkey server of the test's own, on a unix socket in a directory
// of its own. It ends with the test.
type Server struct {
	t      testing.TB
	binary string
	dir    string
	args   []string
	env    []string
	config string // of a sentinel, which takes nothing else

	password string // that Admin says; empty: none

	mu   sync.Mutex
	cmd  *exec.Cmd     // nil while it is down
	gone chan struct{} // closed when cmd has ended
}

// Redis starts a server with args added to its command line, for example
// "--appendonly", "yes", and ends it when the test does. Without args nothing is written to
// disk. Where no server is installed the test is skipped, or fails when CI=true.
func Redis(t testing.TB, args ...string) *Server {
	t.Helper()
	return redisWith(t, nil, args...)
}

func redisWith(t testing.TB, env []string, args ...string) *Server {
	t.Helper()
	found := binaries()
	if len(found) == 0 {
		missing(t, "neither valkey-server nor redis-server is installed")
	}
	s := newServer(t, found[0], args, env)
	t.Cleanup(s.remove)
	s.start(t)
	return s
}

// binaries returns the servers that are installed, one for each name.
func binaries() []string {
	var found []string
	for _, name := range []string{"valkey-server", "redis-server"} {
		if path, err := exec.LookPath(name); err == nil {
			found = append(found, path)
		}
	}
	return found
}

// missing ends a test whose engine is not there: on a laptop that is no fault of the code,
// in CI a test that silently does not run is.
func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("CI=true and %s", why)
	}
	t.Skip(why)
}

// newServer makes the directory. It is not t.TempDir: that name can be longer than the 107
// bytes that a socket's path may have.
func newServer(t testing.TB, binary string, args, env []string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "storetest")
	if err != nil {
		t.Fatal(err)
	}
	return &Server{t: t, binary: binary, dir: dir, args: args, env: env}
}

// URL is what store.Open takes.
func (s *Server) URL() string { return "unix:" + s.socket() }

func (s *Server) socket() string { return filepath.Join(s.dir, "s") }

// Pid is the server's process, 0 while it is down.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// Kill ends the server with SIGKILL and returns when the process is gone.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // fails only if it has ended already
	<-s.gone
	s.cmd = nil
}

// Restart ends the server if it runs and starts it again with the same arguments on the same
// directory. It returns when the server answers.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	s.start(s.t)
}

func (s *Server) remove() {
	s.Kill()
	_ = os.RemoveAll(s.dir)
}

func (s *Server) start(t testing.TB) {
	t.Helper()
	out, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	args := append([]string{"--port", "0", "--unixsocket", s.socket(), "--dir", s.dir, "--save", ""}, s.args...)
	if s.config != "" {
		args = []string{s.config, "--sentinel"}
	}
	cmd := exec.Command(s.binary, args...)
	cmd.Stdout, cmd.Stderr = out, out // a file: no goroutine that copies
	cmd.Env = append(os.Environ(), s.env...)
	dieWithParent(cmd)
	gone := make(chan struct{})
	if err := launch(cmd, gone); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.cmd, s.gone = cmd, gone
	s.mu.Unlock()
	if err := s.awaitReady(gone); err != nil {
		log, _ := os.ReadFile(out.Name())
		t.Fatalf("%s did not start: %v\n%s", s.binary, err, lastLines(string(log), 20))
	}
}

// launch starts a server and closes gone when it has ended. The thread that starts it is kept
// until then: to the kernel that is the parent, and threads can end before their process.
func launch(cmd *exec.Cmd, gone chan struct{}) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(gone)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // reaps it; that it was killed is nothing to report
		}
	}()
	return <-started
}

// awaitReady waits until the server answers a PING, or demands a password for it.
func (s *Server) awaitReady(gone <-chan struct{}) error {
	var last error
	for end := time.Now().Add(startWithin); time.Now().Before(end); time.Sleep(pollEvery) {
		select {
		case <-gone:
			return errors.New("it ended at once")
		default:
		}
		_, last = s.ask("PING")
		if last == nil || errors.Is(last, errRefused) && strings.Contains(last.Error(), "NOAUTH") {
			return nil
		}
	}
	return fmt.Errorf("no answer within %s: %w", startWithin, last)
}

func lastLines(s string, n int) string {
	lines := slices.Collect(strings.Lines(s))
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
