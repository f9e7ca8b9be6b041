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

// ownedBy reads which engines are named by a program instead of an address.
func ownedBy(store, db string) (own owned, err error) {
	if store == ownNodes {
		return owned{store: store, db: db == "postgres"}, nil
	}
	name, query, _ := strings.Cut(store, "?")
	if name == "redis-server" || name == "valkey-server" {
		own.store, own.classB = name, strings.EqualFold(query, "class=b")
		if query != "" && !own.classB {
			return own, fmt.Errorf("drill: --store %s takes ?class=b and nothing else", name)
		}
	}
	own.db = db == "postgres"
	return own, nil
}

// class is the class of the store, whose URL is raw when it is not the run's own.
func (own owned) class(raw string) (string, error) {
	switch {
	case own.store == ownNodes:
		return "A", nil
	case own.classB:
		return "B", nil
	case own.store != "":
		return "C", nil
	}
	return storeClass(raw)
}

// shared says whether several servers can stand on the engines at once.
func (own owned) shared(store, db string) bool {
	return (own.store != "" || isRemote(store)) && (own.db || isPostgres(db))
}

// named is an engine's address, empty for one that the run starts itself.
func named(engine string, own bool) string {
	if own {
		return ""
	}
	return engine
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
	if err = en.answers(ctx); err != nil {
		en.quit(syscall.SIGQUIT)
	}
	return err
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

// hired are a run's own engines, as they run.
type hired struct {
	owned
	binary   string // what nodes run
	servers  int    // that come to the database
	place    *place
	nursery  *nursery
	progress *progress
	storing  harmed // nil: none
	database *engine
}

// start starts the engines that the run is to have for itself. The place ends them.
func (h *hired) start(ctx context.Context) error {
	if h.store == ownNodes {
		if err := h.hireNodes(ctx); err != nil {
			return err
		}
	}
	if (h.store == "" || h.store == ownNodes) && !h.db {
		return nil
	}
	// Not in the run's own directory: a socket's path has at most 107 bytes, and PostgreSQL's
	// account has to reach it. It holds nothing that outlives the run.
	dir, err := os.MkdirTemp("/tmp", fmt.Sprintf("holdfast-engines-%d-", os.Getpid()))
	if err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	h.place.undo = append(h.place.undo, func(context.Context) error { return os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	if h.store != "" && h.store != ownNodes {
		if err := h.hireStore(ctx, filepath.Join(dir, "s")); err != nil {
			return err
		}
	}
	if h.db {
		return h.hireDB(ctx, filepath.Join(dir, "d"))
	}
	return nil
}

func (h *hired) hireStore(ctx context.Context, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	socket := filepath.Join(dir, "s")
	args := []string{"--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "", "--appendonly", "no"}
	query := ""
	if h.classB {
		args = append(args[:len(args)-1], "yes", "--appendfsync", "always")
		query = "?class=b"
	}
	store := &engine{
		nursery: h.nursery, name: h.store, url: "unix:" + socket + query, log: filepath.Join(h.place.dir, "store.log"),
		command: func() *exec.Cmd { return exec.Command(h.store, args...) },
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
	h.progress.say("starting %s", h.store)
	if err := store.start(ctx); err != nil {
		return err
	}
	h.place.undo = append(h.place.undo, func(context.Context) error { store.quit(os.Kill); return nil })
	h.storing, h.place.store = &ownStore{store}, store.url
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

func (h *hired) hireDB(ctx context.Context, dir string) error {
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
	h.database = &engine{
		nursery: h.nursery, name: "postgres", url: "postgres:///postgres?" + q.Encode(), log: filepath.Join(h.place.dir, "db.log"),
		command: func() *exec.Cmd {
			return command("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "shared_buffers=32MB",
				"-c", "max_connections="+strconv.Itoa(20*h.servers+20))
		},
	}
	h.database.ask = func(ctx context.Context) error { return execute(ctx, h.database.url, "SELECT 1") }
	h.progress.say("starting postgres")
	if err := h.createDB(command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")); err != nil {
		return err
	}
	if err := h.database.start(ctx); err != nil {
		return err
	}
	h.place.undo = append(h.place.undo, func(context.Context) error { h.database.quit(syscall.SIGQUIT); return nil })
	h.place.db = h.database.url
	return nil
}

func (h *hired) createDB(initdb *exec.Cmd) error {
	c, err := h.nursery.run(initdb, h.database.log)
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
