package drill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// engineWithin is how long an engine may take until it answers; recovery included.
const engineWithin = 20 * time.Second

// owned are the engines that a run starts for itself. It harms no others.
type owned struct {
	store  string // program, or ownNodes; empty: none
	classB bool
	db     bool
}

// ownedBy reads which engines the options name by a program instead of an address.
func ownedBy(o SaleOptions) (own owned, err error) {
	if o.Store == ownNodes {
		return owned{store: o.Store, db: o.DB == "postgres"}, nil
	}
	name, query, _ := strings.Cut(o.Store, "?")
	if name == "redis-server" || name == "valkey-server" {
		own.store, own.classB = name, strings.EqualFold(query, "class=b")
		if query != "" && !own.classB {
			return own, fmt.Errorf("drill: --store %s takes ?class=b and nothing else", name)
		}
	}
	own.db = o.DB == "postgres"
	return own, nil
}

// engine is a store or a database that this run has started, and so may harm.
type engine struct {
	nursery *nursery
	name    string
	url     string
	log     string
	command func() *exec.Cmd
	ask     func(ctx context.Context) error
	tell    func(ctx context.Context, command string) (string, error) // of a store
	dial    func() (*respConn, error)                                 // of a store
	child   *child
}

// ownStore is one Valkey or Redis of the run's own.
type ownStore struct{ engine *engine }

func (s *ownStore) dial() (*respConn, error) { return s.engine.dial() }

func (s *ownStore) killed(ctx context.Context) (bool, error) {
	hit := s.engine.child.kill()
	return hit, s.engine.start(ctx)
}

func (s *ownStore) standStill(ctx context.Context) (bool, error) { return s.engine.standStill(ctx) }

// start runs the engine and returns when it answers.
func (en *engine) start(ctx context.Context) (err error) {
	if en.child, err = en.nursery.run(en.command(), en.log); err != nil {
		return err
	}
	return en.answers(ctx)
}

// answers waits until the engine does.
func (en *engine) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, engineWithin)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, time.Second)
		err := en.ask(try)
		done()
		switch {
		case err == nil:
			return nil
		case ended(en.child.exited):
			return fmt.Errorf("drill: %s ended before it answered: %w\n%s", en.name, en.child.err, tail(en.log))
		case !wait(ctx, 5*time.Millisecond):
			return fmt.Errorf("drill: %s does not answer: %w\n%s", en.name, err, tail(en.log))
		}
	}
}

// quit ends the engine with a signal and says whether it was still there for that.
func (en *engine) quit(sig os.Signal) bool {
	if ended(en.child.exited) || en.child.cmd.Process.Signal(sig) != nil {
		return false
	}
	select {
	case <-en.child.exited:
	case <-time.After(stopWithin):
		en.child.kill()
	}
	return true
}

// hire starts the engines that the run is to have for itself. The place ends them.
func (r *run) hire(ctx context.Context, n *nursery) error {
	if r.own.store == ownNodes {
		if err := r.hireNodes(ctx, n); err != nil {
			return err
		}
	}
	if (r.own.store == "" || r.own.store == ownNodes) && !r.own.db {
		return nil
	}
	// Not in the run's own directory: a socket's path has at most 107 bytes, and PostgreSQL's
	// account has to reach it. It holds nothing that outlives the run.
	dir, err := os.MkdirTemp("/tmp", fmt.Sprintf("holdfast-engines-%d-", os.Getpid()))
	if err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	r.place.undo = append(r.place.undo, func(context.Context) error { return os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	if r.own.store != "" && r.own.store != ownNodes {
		if err := r.hireStore(ctx, n, filepath.Join(dir, "s")); err != nil {
			return err
		}
	}
	if r.own.db {
		return r.hireDB(ctx, n, filepath.Join(dir, "d"))
	}
	return nil
}

func (r *run) hireStore(ctx context.Context, n *nursery, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	socket := filepath.Join(dir, "s")
	args := []string{"--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "", "--appendonly", "no"}
	query := ""
	if r.own.classB {
		args = append(args[:len(args)-1], "yes", "--appendfsync", "always")
		query = "?class=b"
	}
	store := &engine{
		nursery: n, name: r.own.store, url: "unix:" + socket + query, log: filepath.Join(r.place.dir, "store.log"),
		command: func() *exec.Cmd { return exec.Command(r.own.store, args...) },
		tell:    func(ctx context.Context, command string) (string, error) { return tell(ctx, socket, command) },
		dial: func() (*respConn, error) {
			c, err := net.DialTimeout("unix", socket, time.Second)
			if err != nil {
				return nil, err
			}
			return &respConn{Conn: c, r: bufio.NewReader(c)}, nil
		},
	}
	store.ask = func(ctx context.Context) error {
		answer, err := store.tell(ctx, "PING")
		if err == nil && answer != "+PONG" {
			err = errors.New(answer) // it is loading
		}
		return err
	}
	r.progress.say("starting %s", r.own.store)
	if err := store.start(ctx); err != nil {
		return err
	}
	r.place.undo = append(r.place.undo, func(context.Context) error { store.quit(os.Kill); return nil })
	r.store, r.place.store = &ownStore{store}, store.url
	return nil
}

// tell sends one command to a Redis or Valkey and returns the first line of its answer.
func tell(ctx context.Context, socket, command string) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

func (r *run) hireDB(ctx context.Context, n *nursery, dir string) error {
	bin, err := postgresPrograms()
	if err != nil {
		return err
	}
	user, err := unprivileged()
	if err != nil {
		return err
	}
	if err := user.mkdir(dir); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	data := filepath.Join(dir, "data")
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, user.attr()
		return cmd
	}
	q := url.Values{"host": {dir}, "user": {"postgres"}}
	r.db = &engine{
		nursery: n, name: "postgres", url: "postgres:///postgres?" + q.Encode(), log: filepath.Join(r.place.dir, "db.log"),
		command: func() *exec.Cmd {
			return command("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "shared_buffers=32MB",
				"-c", "max_connections="+strconv.Itoa(20*r.Servers+20))
		},
	}
	r.db.ask = func(ctx context.Context) error { return execute(ctx, r.db.url, "SELECT 1") }
	r.progress.say("starting postgres")
	if err := r.createDB(n, command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")); err != nil {
		return err
	}
	if err := r.db.start(ctx); err != nil {
		return err
	}
	r.place.undo = append(r.place.undo, func(context.Context) error { r.db.quit(syscall.SIGQUIT); return nil })
	r.place.db = r.db.url
	return nil
}

func (r *run) createDB(n *nursery, initdb *exec.Cmd) error {
	c, err := n.run(initdb, r.db.log)
	if err != nil {
		return err
	}
	select {
	case <-c.exited:
	case <-time.After(engineWithin):
		c.kill()
	}
	if c.err != nil {
		return fmt.Errorf("drill: initdb: %w\n%s", c.err, tail(c.log))
	}
	return nil
}

// postgresPrograms is the directory of initdb and postgres: Debian does not put them on PATH.
func postgresPrograms() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errors.New("drill: --db postgres needs initdb and postgres, on PATH or in /usr/lib/postgresql/*/bin")
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}
