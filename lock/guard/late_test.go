package guard_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/lock/guard"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// A holder is a process of its own: it leases the seat, says so, and writes when it is told to,
// whatever has become of its lease. That is what a program does which was paused between the two.
const holderStore, holderDB = "GUARD_TEST_STORE", "GUARD_TEST_DB"

func holds(storeURL, dbURL string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := store.Open(ctx, storeURL, store.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	db, err := sqldb.Open(ctx, dbURL, sqldb.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	l, err := lock.New(s, lock.Options{TTL: 500 * time.Millisecond})
	if err != nil {
		return err
	}
	lease, err := l.Acquire(ctx, "seat 14B", lock.Request{})
	if err != nil {
		return err
	}
	fmt.Println("held")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	switch err := write(ctx, db, guard.Fence{Token: lease.Token(), Owner: lease.Owner()}); {
	case errors.Is(err, guard.ErrStale):
		fmt.Println("stale")
	case err != nil:
		return err
	default:
		fmt.Println("written")
	}
	return nil
}

type holder struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	said chan string
}

func startHolder(t *testing.T, storeURL, dbURL string) *holder {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := &holder{cmd: exec.Command(self), said: make(chan string, 10)}
	h.cmd.Env = append(os.Environ(), holderStore+"="+storeURL, holderDB+"="+dbURL)
	h.cmd.Stderr = os.Stderr
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			h.said <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = h.cmd.Process.Kill() // it may have ended
		<-read
		_ = h.cmd.Wait()
	})
	return h
}

func (h *holder) says(t *testing.T, want ...string) string {
	t.Helper()
	select {
	case got := <-h.said:
		if !slices.Contains(want, got) {
			t.Fatalf("the holder said %q", got)
		}
		return got
	case <-time.After(30 * time.Second):
		t.Fatalf("the holder does not say %q", want)
	}
	return ""
}

func (h *holder) write(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(h.in, "write\n"); err != nil {
		t.Fatal(err)
	}
}

// A holder paused past its lease wakes up and writes. The table says who wrote after whom.
func TestPausedHolderIsFenced(t *testing.T) {
	storeURL, dbURL := storetest.Redis(t).URL(), sqldbtest.Shared(t).NewSchema(t)
	db := sqldbtest.Open(t, dbURL, sqldb.Options{})
	ready(t, db)
	late := startHolder(t, storeURL, dbURL)
	late.says(t, "held")
	if err := late.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	next := startHolder(t, storeURL, dbURL)
	next.says(t, "held") // once the lease of the first has ended
	next.write(t)
	next.says(t, "written")
	late.write(t)
	if err := late.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	verdict := late.says(t, "stale", "written")
	var tokens []int64
	err := db.Read(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		tokens = nil
		rows, err := tx.Query(ctx, `SELECT token FROM accepted ORDER BY n`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var token int64
			if err := rows.Scan(&token); err != nil {
				return err
			}
			tokens = append(tokens, token)
		}
		return rows.Err()
	})
	if err != nil || len(tokens) == 0 || !slices.IsSorted(tokens) {
		t.Errorf("tokens in the order of acceptance: %v, %v; the late holder was told: %s", tokens, err, verdict)
	}
}

// Without the guard the paused holder does harm, with a door that reads no token every late request
// passes; and the tests see it.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a test binary")
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	program := filepath.Join(t.TempDir(), "mutants.test")
	if out, err := exec.Command(goTool, "test", "-c", "-tags", "mutants", "-ldflags", "-s -w", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for name, c := range map[string]struct{ test, says string }{
		"mutant_guard": {"^TestPausedHolderIsFenced$", "the late holder was told: written"},
		"mutant_door":  {"^TestHTTP$", `["4"]: 200`},
	} {
		cmd := exec.Command(program, "-test.run", c.test, "-test.timeout", "2m")
		cmd.Env = append(os.Environ(), "HOLDFAST_MUTANTS="+name)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%s was not noticed: %v\n%s", name, err, out)
		}
	}
}
