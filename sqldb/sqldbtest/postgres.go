package sqldbtest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver named pgx
)

const (
	patience = 60 * time.Second
	prefix   = "holdfast-pg-"
)

// Server is a PostgreSQL server that this process started. It ends with this process.
type Server struct {
	bin  string // directory of the programs
	dir  string // everything it writes, and its socket
	user *account
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// URL addresses a database of the server as its superuser.
func (s *Server) URL(database string) string {
	q := url.Values{"host": {s.dir}, "user": {"postgres"}}
	return "postgres:///" + url.PathEscape(database) + "?" + q.Encode()
}

// Pid is the postmaster's process id.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Program is the path of a program that came with the server, such as pg_dump.
func (s *Server) Program(name string) string { return filepath.Join(s.bin, name) }

// NewDatabase creates an empty database, dropped when the test ends.
func (s *Server) NewDatabase(t testing.TB) string {
	t.Helper()
	name := s.temporary(t, "CREATE DATABASE %s", "DROP DATABASE %s WITH (FORCE)")
	return s.URL(name)
}

// NewSchema creates an empty schema, dropped when the test ends, and returns the URL
// that leads into it. It is what most tests want: a hundred times as quick as a
// database, and nothing in it is seen from outside.
func (s *Server) NewSchema(t testing.TB) string {
	t.Helper()
	name := s.temporary(t, "CREATE SCHEMA %s", "DROP SCHEMA %s CASCADE")
	return s.URL("postgres") + "&search_path=" + name
}

func (s *Server) temporary(t testing.TB, create, drop string) (name string) {
	t.Helper()
	name = fmt.Sprintf("t%016x", rand.Uint64())
	if err := s.admin(fmt.Sprintf(create, name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !s.running() {
			return
		}
		if err := s.admin(fmt.Sprintf(drop, name)); err != nil {
			t.Error(err)
		}
	})
	return name
}

func (s *Server) admin(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	db, err := sql.Open("pgx", s.URL("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, statement)
	return err
}

// start creates a cluster and starts it.
func start(t testing.TB, settings []string) *Server {
	t.Helper()
	s := &Server{bin: programs()}
	if s.bin == "" {
		missing(t, "PostgreSQL is not installed (initdb and postgres, on PATH or in /usr/lib/postgresql)")
	}
	var err error
	if s.user, err = unprivileged(); err != nil {
		missing(t, err.Error())
	}
	if err := s.create(settings); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		s.remove()
		t.Fatal(err)
	}
	return s
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// programs is the directory of the newest PostgreSQL.
func programs() string {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path)
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[len(found)-1])
}

func (s *Server) create(settings []string) (err error) {
	sweep()
	// In /tmp, not in the test's own directory: a socket's path has at most 107 bytes,
	// and the server's account must be able to reach it.
	s.dir, err = os.MkdirTemp("/tmp", fmt.Sprintf("%s%d-", prefix, os.Getpid()))
	if err != nil {
		return err
	}
	if err := s.user.own(s.dir); err != nil {
		return err
	}
	cmd := s.command("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	conf := append([]string{
		"listen_addresses = ''",
		"unix_socket_directories = '" + s.dir + "'",
		"max_connections = 100",
		"shared_buffers = 32MB",
	}, settings...)
	f, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(conf, "\n") + "\n")
	return errors.Join(err, f.Close())
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(s.Program(name), args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = s.user.attr()
	return cmd
}

// Start starts the server and returns when it answers.
func (s *Server) Start() error {
	if s.running() {
		return nil
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = s.command("postgres", "-D", s.data())
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr.Setpgid = true // a Ctrl-C in the terminal is for the tests, not for it
	s.done = make(chan struct{})
	if err := launch(s.cmd, s.done); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = s.admin("SELECT 1"); err == nil {
			return nil
		}
		if !s.running() {
			break
		}
	}
	return fmt.Errorf("postgres did not start: %w\n%s", err, s.log())
}

func (s *Server) running() bool {
	if s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

func (s *Server) log() []byte {
	b, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return bytes.TrimSpace(b)
}

// Kill ends the server as a crash would: nothing is flushed, no client is told.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the server in good order; clients are disconnected.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

func (s *Server) end(sig syscall.Signal) {
	if s.running() {
		_ = s.cmd.Process.Signal(sig)
		<-s.done
	}
	if sig == syscall.SIGKILL {
		s.awaitOrphans()
	}
}

// awaitOrphans waits until the dead postmaster's children have left too; each notices
// by itself. Until then a new postmaster refuses to start.
func (s *Server) awaitOrphans() {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if !anyProcessIn(s.data()) {
			return
		}
	}
}

// remove ends the server and deletes what it wrote.
func (s *Server) remove() {
	if s.running() {
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // at once: nobody will read the data again
		<-s.done
	}
	s.awaitOrphans()
	_ = os.RemoveAll(s.dir)
}
