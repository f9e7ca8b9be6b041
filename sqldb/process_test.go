package sqldb_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

const (
	childMode = "SQLDB_TEST_CHILD"
	childURL  = "SQLDB_TEST_URL"
)

// child is what this binary does when a test runs it as a process of its own.
func child() {
	ctx := context.Background()
	db, err := sqldb.Open(ctx, os.Getenv(childURL), sqldb.Options{})
	if err != nil {
		fmt.Println("refused", errors.Is(err, sqldb.ErrLocked), err)
		return
	}
	fmt.Println("open")
	if os.Getenv(childMode) == "hold" {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		_ = db.Close()
		return
	}
	for from, _ := strconv.Atoi(os.Getenv(childMode)); ; from++ {
		err := tryExec(ctx, db, `INSERT INTO t VALUES ($1, $1)`, from)
		if err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Println("wrote", from) // unbuffered: the parent reads what was acknowledged
	}
}

func startChild(t *testing.T, mode, url string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childMode+"="+mode, childURL+"="+url)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, bufio.NewScanner(out)
}

func TestSecondProcessIsRefused(t *testing.T) {
	url := sqldbtest.SQLite(t)
	path := strings.TrimPrefix(url, "sqlite:")
	db := sqldbtest.Open(t, url, sqldb.Options{})
	_, lines := startChild(t, "hold", url)
	if lines.Scan(); !strings.HasPrefix(lines.Text(), "refused true") || !strings.Contains(lines.Text(), path+".lock") {
		t.Errorf("the second process: %q", lines.Text())
	}
	if _, err := sqldb.Open(t.Context(), url, sqldb.Options{}); !errors.Is(err, sqldb.ErrLocked) {
		t.Error("a second Open in this process:", err)
	}
	other := path + "-by-another-name"
	if err := os.Symlink(path, other); err != nil {
		t.Fatal(err)
	}
	if _, err := sqldb.Open(t.Context(), "sqlite:"+other, sqldb.Options{}); !errors.Is(err, sqldb.ErrLocked) {
		t.Error("through a link:", err)
	}

	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	holder, lines := startChild(t, "hold", url)
	if lines.Scan(); lines.Text() != "open" {
		t.Fatalf("after Close: %q", lines.Text())
	}
	if _, err := sqldb.Open(t.Context(), url, sqldb.Options{}); !errors.Is(err, sqldb.ErrLocked) {
		t.Error("while the other has it:", err)
	}
	_ = holder.Process.Kill() // a crash must not leave the file locked
	_ = holder.Wait()
	sqldbtest.Open(t, url, sqldb.Options{})
}

// SIGKILL at random moments: every row that was acknowledged is there, and the file
// opens again at once.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	url := sqldbtest.SQLite(t)
	db := sqldbtest.Open(t, url, sqldb.Options{})
	prepare(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	next := 1
	for range rounds {
		cmd, lines := startChild(t, strconv.Itoa(next), url)
		acknowledged := next - 1
		life := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		for lines.Scan() {
			if lines.Text() == "open" {
				life.Reset(time.Duration(rand.IntN(200)) * time.Millisecond)
				continue
			}
			if _, err := fmt.Sscanf(lines.Text(), "wrote %d", &acknowledged); err != nil {
				t.Fatal("the child says: ", lines.Text())
			}
		}
		life.Stop()
		_ = cmd.Wait()

		db := sqldbtest.Open(t, url, sqldb.Options{})
		count, top := number(t, db, `SELECT count(*) FROM t`), number(t, db, `SELECT coalesce(max(id), 0) FROM t`)
		// One more than acknowledged is possible: killed between commit and the line.
		if count != top || top < int64(acknowledged) || top > int64(acknowledged)+1 {
			t.Fatalf("acknowledged 1..%d, found %d rows up to %d", acknowledged, count, top)
		}
		if got := text(t, db, `PRAGMA integrity_check`); got != "ok" {
			t.Fatal(got)
		}
		next = int(top) + 1
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if next == 1 {
		t.Fatal("nothing was written: the test proved nothing")
	}
}

// foreign opens the same SQLite file as another program would, on one connection.
func foreign(t *testing.T, url string) *sql.Conn {
	t.Helper()
	pool, err := sql.Open("sqlite", strings.TrimPrefix(url, "sqlite:"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pool.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		_ = pool.Close()
	})
	return conn
}
