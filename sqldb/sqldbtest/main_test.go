package sqldbtest_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

const childMode = "SQLDBTEST_CHILD"

func TestMain(m *testing.M) { sqldbtest.Main(m) }

func count(t *testing.T, url string) (n int, err error) {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.QueryRowContext(t.Context(), `SELECT count(*) FROM t`).Scan(&n)
	return n, err
}

func TestEachIsEmptyAndItsOwn(t *testing.T) {
	for range 2 {
		sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
			err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
				_, err := tx.Exec(ctx, `CREATE TABLE t (n BIGINT)`)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// A server that is killed or stopped comes back at the same address with its data.
func TestRestart(t *testing.T) {
	server := sqldbtest.Postgres(t)
	url := server.NewDatabase(t)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE t (n BIGINT)`); err != nil {
		t.Fatal(err)
	}
	for i, end := range []func(){server.Kill, server.Stop, server.Kill} {
		if _, err := db.ExecContext(t.Context(), `INSERT INTO t VALUES (1)`); err != nil {
			t.Fatal(i, err)
		}
		pid := server.Pid()
		end()
		end() // twice is once
		if syscall.Kill(pid, 0) == nil {
			t.Error("still there")
		}
		if _, err := count(t, url); err == nil {
			t.Error("it answers")
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if n, err := count(t, url); err != nil || n != i+1 {
			t.Errorf("round %d: %d rows, %v", i, n, err)
		}
	}
}

func TestSettings(t *testing.T) {
	server := sqldbtest.Postgres(t, "max_connections = 7")
	db, err := sql.Open("pgx", server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var limit, fsync string
	if err := db.QueryRowContext(t.Context(), `SELECT current_setting('max_connections'), current_setting('fsync')`).
		Scan(&limit, &fsync); err != nil || limit != "7" || fsync != "on" {
		t.Error(limit, fsync, err)
	}
}

// TestChild is the process that TestDiesWithUs kills; alone it does nothing.
func TestChild(t *testing.T) {
	if os.Getenv(childMode) == "" {
		t.Skip("runs as a child of TestDiesWithUs")
	}
	server := sqldbtest.Postgres(t)
	fmt.Printf("server %d %s\n", server.Pid(), server.URL("postgres"))
	time.Sleep(time.Minute) // to be killed
}

// A test binary that is killed cannot clean up; its server must end all the same, and
// the next run removes what lies about.
func TestDiesWithUs(t *testing.T) {
	sqldbtest.Shared(t) // skips when there is no PostgreSQL
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childMode+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var url string
	_, err = fmt.Fscanf(out, "server %d %s\n", &pid, &url)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	dir := url[strings.Index(url, "host=")+len("host="):]
	dir = strings.ReplaceAll(dir[:strings.IndexByte(dir, '&')], "%2F", "/")
	deadline := time.Now().Add(30 * time.Second)
	for ; syscall.Kill(pid, 0) == nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
	}
	if syscall.Kill(pid, 0) == nil {
		t.Fatal("the server outlived the test binary that started it")
	}
	// The tests of another package may have swept it away already.
	for time.Now().Before(deadline) {
		sqldbtest.Postgres(t) // sweeps before it starts
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			return
		}
	}
	t.Error("left behind:", dir)
}
