package sqldb_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

// bentLine stands between a client and a real server and cuts the connection at one
// message of the client: before the server gets it, or after, with the answer lost.
type bentLine struct {
	listener net.Listener
	server   string
	messages atomic.Int64 // of clients, since arm
	cutAt    atomic.Int64 // 0: never
	after    atomic.Bool
	conns    sync.WaitGroup
	servers  sync.Map // net.Conn, of those that are open
}

// bend returns the line and the URL that leads through it.
func bend(t *testing.T, database string) (*bentLine, string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "bent") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	const name = ".s.PGSQL.5432"
	l := &bentLine{server: filepath.Join(u.Query().Get("host"), name)}
	if l.listener, err = net.Listen("unix", filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	l.conns.Go(l.accept)
	t.Cleanup(func() {
		_ = l.listener.Close()
		l.conns.Wait()
		_ = os.RemoveAll(dir)
	})
	q := u.Query()
	q.Set("host", dir)
	q.Set("sslmode", "disable")
	u.RawQuery = q.Encode()
	return l, u.String()
}

func (l *bentLine) arm(at int64, after bool) {
	l.messages.Store(0)
	l.after.Store(after)
	l.cutAt.Store(at)
}

// die cuts all connections, as a client does that is killed: it cannot ask for anything any more either.
func (l *bentLine) die() {
	_ = l.listener.Close()
	l.servers.Range(func(server, _ any) bool { return server.(net.Conn).Close() == nil })
}

func (l *bentLine) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.conns.Go(func() { l.serve(client) })
	}
}

func (l *bentLine) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", l.server)
	if err != nil {
		return
	}
	l.servers.Store(server, nil)
	defer func() { l.servers.Delete(server); _ = server.Close() }()
	var deaf atomic.Bool // the client hears no more
	l.conns.Go(func() {
		defer client.Close()
		buf := make([]byte, 4096)
		for {
			n, err := server.Read(buf)
			if err != nil || deaf.Load() {
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	for startup := true; ; startup = false {
		message, err := readMessage(client, startup)
		if err != nil {
			return
		}
		n := l.messages.Add(1)
		cut := l.cutAt.Load() == n
		if cut && !l.after.Load() {
			return
		}
		deaf.Store(cut)
		if _, err := server.Write(message); err != nil {
			return
		}
	}
}

// readMessage reads one message of PostgreSQL's protocol; the first has no type.
func readMessage(r io.Reader, startup bool) ([]byte, error) {
	head := make([]byte, 5)
	if startup {
		head = head[:4]
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[len(head)-4:])-4)
	_, err := io.ReadFull(r, body)
	return append(head, body...), err
}

// The connection is cut at the first message of a transaction, then at the second, and
// so on until a run meets no cut. Whatever the error promises must be what is there.
func TestEveryCutTellsTheTruth(t *testing.T) {
	direct := sqldbtest.Shared(t).NewDatabase(t)
	watch := sqldbtest.Open(t, direct, sqldb.Options{})
	prepare(t, watch)
	line, bent := bend(t, direct)
	for _, after := range []bool{false, true} {
		seen := map[error]int{}
		for at := int64(1); ; at++ {
			db := sqldbtest.Open(t, bent, sqldb.Options{MaxConns: 1})
			id := at
			if after {
				id += 1000
			}
			line.arm(at, after)
			ran := false
			err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
				tx.AfterCommit(func() { ran = true })
				if _, err := tx.Exec(ctx, `INSERT INTO t VALUES ($1, 0)`, id); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, `UPDATE t SET n = n + 1 WHERE id = $1`, id)
				return err
			})
			uncut := line.messages.Load() < at
			line.arm(0, false)
			written := number(t, watch, `SELECT count(*) FROM t WHERE id = $1 AND n = 1`, id) == 1
			switch {
			case err == nil && !written, nothingCommitted(err) && written, ran != (err == nil):
				t.Fatalf("message %d, after %t: written %t, callback %t, but %v", at, after, written, ran, err)
			case err != nil && !nothingCommitted(err) && !errors.Is(err, sqldb.ErrOutcomeUnknown):
				t.Fatalf("message %d, after %t: an error without meaning: %v", at, after, err)
			}
			for _, kind := range []error{nil, sqldb.ErrUnavailable, sqldb.ErrOutcomeUnknown} {
				if errors.Is(err, kind) {
					seen[kind]++
				}
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if uncut {
				break
			}
		}
		// The idle connection that dies at BEGIN is replaced: so there is a success
		// among the cuts, and only COMMIT may be unknown.
		if seen[nil] < 2 || seen[sqldb.ErrUnavailable] < 2 || seen[sqldb.ErrOutcomeUnknown] != 1 {
			t.Errorf("after %t: %v", after, seen)
		}
	}
}

// The backend dies by SIGKILL in the middle of a transaction; PostgreSQL restarts all
// sessions. The next call succeeds without anybody's help.
func TestBackendKilled(t *testing.T) {
	server := sqldbtest.Postgres(t)
	db := sqldbtest.Open(t, server.NewDatabase(t), sqldb.Options{})
	prepare(t, db)
	for i, when := range []string{"at a statement", "at COMMIT"} {
		err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			var pid int
			if err := tx.Row(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO t VALUES ($1, 0)`, i); err != nil {
				return err
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return err
			}
			waitFor(t, "the backend to be gone", func() bool { return syscall.Kill(pid, 0) != nil })
			if i == 1 {
				return nil
			}
			_, err := tx.Exec(ctx, `UPDATE t SET n = 1`)
			return err
		})
		if i == 0 && !errors.Is(err, sqldb.ErrUnavailable) ||
			i == 1 && !errors.Is(err, sqldb.ErrUnavailable) && !errors.Is(err, sqldb.ErrOutcomeUnknown) {
			t.Errorf("%s: %v", when, err)
		}
		waitFor(t, "the server to recover", func() bool { return db.Ping(t.Context()) == nil })
		if n := number(t, db, `SELECT count(*) FROM t`); n != 0 {
			t.Errorf("%s: %d rows", when, n)
		}
	}
}

// A process dies while its statement waits for a lock. The server ends that transaction at once, so that what it has locked
// itself is free, and not after the time that a lock is waited for.
func TestTheDeadHoldNoLocks(t *testing.T) {
	url := sqldbtest.Shared(t).NewDatabase(t)
	db := sqldbtest.Open(t, url, sqldb.Options{})
	prepare(t, db)
	if err := tryExec(t.Context(), db, `INSERT INTO t VALUES (1, 0), (2, 0)`); err != nil {
		t.Fatal(err)
	}
	line, bent := bend(t, url)
	dying := sqldbtest.Open(t, bent+"&lock_timeout=60s", sqldb.Options{})
	var other sync.WaitGroup
	defer other.Wait()
	write(t, db, func(ctx context.Context, tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE t SET n = 1 WHERE id = 1`); err != nil {
			return err
		}
		other.Go(func() {
			err := dying.Write(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
				if _, err := tx.Exec(ctx, `UPDATE t SET n = 2 WHERE id = 2`); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, `UPDATE t SET n = 2 WHERE id = 1`)
				return err
			})
			if !errors.Is(err, sqldb.ErrUnavailable) {
				t.Errorf("who was cut off got %v", err)
			}
		})
		waitFor(t, "the other one to wait", func() bool {
			return number(t, db, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
		})
		line.die()
		began := time.Now()
		if _, err := tx.Exec(ctx, `UPDATE t SET n = 1 WHERE id = 2`); err != nil {
			return err
		}
		if took := time.Since(began); took > 700*time.Millisecond {
			t.Errorf("the lock was free after %s", took)
		}
		return nil
	})
}

// A restart leaves a pool of dead connections. Nobody gets an error for that.
func TestDeadPoolIsReplaced(t *testing.T) {
	server := sqldbtest.Postgres(t)
	db := sqldbtest.Open(t, server.NewDatabase(t), sqldb.Options{MaxConns: 8})
	prepare(t, db)
	for _, end := range []func(){server.Stop, server.Kill} {
		fill(t, db, 8)
		end()
		if err := tryExec(t.Context(), db, `INSERT INTO t VALUES (1, 1)`); !errors.Is(err, sqldb.ErrUnavailable) {
			t.Error("while it is down:", err)
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		fill(t, db, 8)
		end()
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := tryExec(t.Context(), db, `UPDATE t SET n = n + 1`); err != nil {
				t.Error("after the restart:", err)
			}
		}
	}
}

// fill makes the pool open n connections.
func fill(t *testing.T, db *sqldb.DB, n int) {
	t.Helper()
	var open, done sync.WaitGroup
	open.Add(n)
	for range n {
		done.Go(func() {
			var once sync.Once
			err := db.Read(context.Background(), func(context.Context, *sqldb.Tx) error {
				once.Do(open.Done)
				open.Wait()
				return nil
			})
			if err != nil {
				t.Error(err)
				once.Do(open.Done)
			}
		})
	}
	done.Wait()
}

// The server does not answer at all: a call ends at its deadline, as unavailable.
func TestSilentServer(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "silent")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	listener, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	began := time.Now()
	_, err = sqldb.Open(t.Context(), "postgres:///x?sslmode=disable&host="+dir, sqldb.Options{Timeout: 300 * time.Millisecond})
	if took := time.Since(began); !errors.Is(err, sqldb.ErrUnavailable) || took > 5*time.Second {
		t.Errorf("after %s: %v", took, err)
	}
}

// Close waits for who is inside, and lets nobody else in.
func TestCloseWaits(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		inside, leave := make(chan struct{}), make(chan struct{})
		result, closed := make(chan error, 1), make(chan error, 1)
		go func() {
			result <- db.Write(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
				close(inside)
				<-leave
				_, err := tx.Exec(ctx, `INSERT INTO t VALUES (1, 1)`)
				return err
			})
		}()
		<-inside
		go func() { closed <- db.Close() }()
		waitFor(t, "Close to have begun", func() bool { return errors.Is(db.Ping(t.Context()), sqldb.ErrUnavailable) })
		select {
		case <-closed:
			t.Error("closed under a running transaction")
		default:
		}
		close(leave)
		if err := errors.Join(<-result, <-closed); err != nil {
			t.Error(err)
		}
	})
}
