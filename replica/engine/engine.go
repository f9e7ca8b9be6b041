// Package engine runs one unmodified Valkey or Redis for a node: on a unix socket in a
// private directory, without persistence of its own, with one user for clients, who may do
// everything but what would go round the node, and one for the node itself.
package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

var (
	// ErrMissing: there is no valkey-server and no redis-server where one was looked for.
	ErrMissing = errors.New("replica: no engine")
	// ErrVersion: the engine is too old: it lacks ACLs for subcommands.
	ErrVersion = errors.New("replica: the engine is too old")
	// ErrStart: the engine ended, or did not answer, before it was ready. Its last words are quoted.
	ErrStart = errors.New("replica: the engine did not start")
	// ErrSettings: the engine runs otherwise than it was told, and could lose or invent data by itself.
	ErrSettings = errors.New("replica: the engine does not run as it has to")
	// ErrGone: the engine does not answer (any more).
	ErrGone = errors.New("replica: the engine does not answer")
)

// Config says which engine to run.
type Config struct {
	Path     string       // the program; empty: valkey-server, else redis-server, found on PATH
	Dir      string       // for the socket and for files that the engine needs for a moment; made when missing
	Password string       // what clients must say; empty: nothing
	Backlog  int64        // bytes of its stream that the engine keeps; 0: 64 MiB
	Logger   *slog.Logger // nil: slog.Default
}

// DefaultBacklog is enough for the moments in which a node is not attached.
const DefaultBacklog = 64 << 20

// nodeUser is what the node is called by its engine.
const nodeUser = "holdfast"

// Engine is a running engine. Its methods may be called from everywhere.
type Engine struct {
	cfg     Config
	secret  string // the node's own password, new for each start
	socket  string
	private string // directory of the socket, when it is not in Dir
	cmd     *exec.Cmd
	out     *lastLines
	exited  chan struct{}

	mu    sync.Mutex
	admin *conn
}

// startTime bounds the start of an empty engine.
const startTime = 10 * time.Second

// Start runs an engine and waits until it answers: ErrMissing, ErrVersion, ErrStart.
func Start(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Backlog == 0 {
		cfg.Backlog = DefaultBacklog
	}
	path, err := find(cfg.Path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStart, err)
	}
	e := &Engine{cfg: cfg, secret: secret(), socket: filepath.Join(cfg.Dir, "engine.sock"),
		out: &lastLines{}, exited: make(chan struct{})}
	if err := e.placeSocket(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStart, err)
	}
	if err := e.launch(path); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrStart, err), e.removeSocket())
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := e.ready(ctx); err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

// maxSocket is what Linux's sockaddr_un holds, without the zero at its end.
const maxSocket = 107

// placeSocket finds a name for the socket that is short enough, and nobody else's. One that
// another engine left would be mistaken for the new one's.
func (e *Engine) placeSocket() error {
	if len(e.socket) <= maxSocket {
		if err := os.Remove(e.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	for _, dir := range []string{os.TempDir(), "/tmp"} {
		private, err := os.MkdirTemp(dir, "holdfast-") // 0700
		if err != nil {
			continue
		}
		if e.socket = filepath.Join(private, "engine.sock"); len(e.socket) <= maxSocket {
			e.private = private
			return nil
		}
		_ = os.Remove(private) // the next one is tried
	}
	return fmt.Errorf("no directory with a name that is short enough for a unix socket: %s", e.socket)
}

func (e *Engine) removeSocket() error {
	if e.private == "" {
		return nil
	}
	return os.RemoveAll(e.private)
}

func find(path string) (string, error) {
	names := []string{"valkey-server", "redis-server"}
	if path != "" {
		names = []string{path}
	}
	for _, name := range names {
		if found, err := exec.LookPath(name); err == nil {
			return filepath.Abs(found)
		}
	}
	return "", fmt.Errorf("%w: looked for %s", ErrMissing, strings.Join(names, " and "))
}

func secret() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func (e *Engine) launch(path string) error {
	e.cmd = exec.Command(path, "-") // the configuration comes by stdin: secrets are in no file and no argument
	e.cmd.Dir = e.cfg.Dir
	e.cmd.Stdin = strings.NewReader(e.config())
	e.cmd.Stdout, e.cmd.Stderr = e.out, e.out
	e.cmd.WaitDelay = time.Second
	gone := e.exited
	started := make(chan error, 1)
	go launchThread(e.cmd, started, gone)
	return <-started
}

// ready waits until the engine answers as itself.
func (e *Engine) ready(ctx context.Context) error {
	for {
		_, err := e.Do(ctx, "PING")
		if err == nil {
			break
		}
		select {
		case <-e.exited:
			return e.failed(ErrStart)
		case <-ctx.Done():
			return fmt.Errorf("%w: no answer in time: %w", e.failed(ErrStart), err)
		case <-time.After(2 * time.Millisecond):
		}
	}
	info, err := e.Info(ctx, "server")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStart, err)
	}
	if err := checkVersion(info); err != nil {
		return err
	}
	return e.checkSettings(ctx)
}

// checkSettings: a wrapper, or a build of somebody's own, may have put others in their place.
func (e *Engine) checkSettings(ctx context.Context) error {
	for _, s := range []struct{ name, want, or string }{
		{"maxmemory-policy", "noeviction", "it would evict keys"},
		{"save", "", "it would save snapshots of its own, and might come up with one"},
		{"appendonly", "no", "it would come up with what it has written, which may never have been committed"},
	} {
		answer, err := e.Do(ctx, "CONFIG", "GET", s.name)
		if err != nil {
			return fmt.Errorf("%w: CONFIG GET %s: %w", ErrStart, s.name, err)
		}
		words, _ := answer.([]any)
		if len(words) != 2 || words[1] != s.want {
			return fmt.Errorf("%w: CONFIG GET %s says %q, not %q: %s", ErrSettings, s.name, words, s.want, s.or)
		}
	}
	return nil
}

// failed says why with the engine's own words; what it says of its configuration matters most.
func (e *Engine) failed(err error) error {
	text := e.out.String()
	if strings.Contains(text, "FATAL CONFIG FILE ERROR") || strings.Contains(text, "Bad directive") {
		return fmt.Errorf("%w: it does not know a setting (is it older than 7.0?): %s", ErrVersion, text)
	}
	if text == "" {
		text = "it said nothing; is " + e.cmd.Path + " a valkey-server or redis-server?"
	}
	return fmt.Errorf("%w: %s", err, text)
}

func checkVersion(info map[string]string) error {
	v := info["redis_version"]
	if v == "" || strings.HasPrefix(v, "6.") || len(v) > 1 && v[1] == '.' && v[0] < '7' {
		return fmt.Errorf("%w: version %s; 7.0 is the first that works", ErrVersion, v)
	}
	return nil
}

// Client opens a connection as clients get it. Nothing is said on it yet.
func (e *Engine) Client(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", e.socket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return c, nil
}

// Admin opens a connection that is authenticated as the node.
func (e *Engine) Admin(ctx context.Context) (net.Conn, error) {
	c, err := e.dialAdmin(ctx)
	if err != nil {
		return nil, err
	}
	if c.r.Buffered() > 0 {
		return nil, errors.Join(ErrProtocol, c.Close())
	}
	return c.Conn, nil
}

// Pid is the engine's process.
func (e *Engine) Pid() int { return e.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (e *Engine) Exited() <-chan struct{} { return e.exited }

// LastWords are the last lines that the engine wrote.
func (e *Engine) LastWords() string { return e.out.String() }

// Stop ends the engine, which keeps nothing, and returns when it has.
func (e *Engine) Stop() error {
	e.mu.Lock()
	if e.admin != nil {
		_ = e.admin.Close() // it goes anyway
		e.admin = nil
	}
	e.mu.Unlock()
	err := e.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-e.exited
	return errors.Join(err, e.removeSocket())
}

// lastLines keeps the end of what an engine writes.
type lastLines struct {
	mu   sync.Mutex
	text []byte
}

const maxWords = 2 << 10

func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if extra := len(l.text) - maxWords; extra > 0 {
		l.text = append(l.text[:0], l.text[extra:]...)
	}
	return len(p), nil
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(l.text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-4):], []byte(" | ")))
}

var _ io.Writer = (*lastLines)(nil)
