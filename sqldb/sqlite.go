package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"modernc.org/sqlite"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

// walLimit is what the write-ahead log is cut back to after a checkpoint.
const walLimit = 64 << 20

func openSQLite(path string, opts Options) (*DB, error) {
	opts, err := opts.withDefaults(SQLite)
	if err != nil {
		return nil, err
	}
	path, err = sqlitePath(path)
	if err != nil {
		return nil, err
	}
	lock, err := claim(path)
	if err != nil {
		return nil, err
	}
	d := &sqlite.Driver{}
	d.MustRegisterScalarFunction("holdfast_now", 0,
		func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
			return time.Now().UnixMicro(), nil
		})
	return &DB{
		dialect:   SQLite,
		opts:      opts,
		writer:    newPool(sql.OpenDB(&connector{d, sqliteDSN(path, "_txlock=immediate")}), 1),
		reader:    newPool(sql.OpenDB(&connector{d, sqliteDSN(path, "_query_only=1")}), opts.MaxConns),
		snapshots: func() *sql.DB { return sql.OpenDB(&connector{d, sqliteDSN(path, "_query_only=1")}) },
		release:   lock.Unlock,
	}, nil
}

// sqliteName is the file that the rest of a URL names, absolute.
func sqliteName(path string) (string, error) {
	if rest, ok := strings.CutPrefix(path, "//"); ok {
		if !strings.HasPrefix(rest, "/") {
			return "", fmt.Errorf("%w: write sqlite:PATH, or sqlite:///PATH from the root", ErrConfig)
		}
		path = rest
	}
	if path == "" || strings.HasPrefix(path, ":") || strings.ContainsAny(path, "?\x00") || strings.HasSuffix(path, "/") {
		return "", fmt.Errorf("%w: sqlite:PATH needs a file's path; memory and ?options are not offered", ErrConfig)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return path, nil
}

// sqlitePath is where the file really lies: two names of one file must meet one lock.
func sqlitePath(path string) (string, error) {
	path, err := sqliteName(path)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("%w: %w", ErrConfig, err)
	}
	// Created here, because SQLite would follow the umask; its log takes this mode over.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrConfig, err)
	}
	path, err = filepath.EvalSymlinks(path)
	return path, errors.Join(err, f.Close())
}

// claim takes the lock file. It is never removed: a process that waits for a removed
// file would hold a lock that nobody else sees.
func claim(path string) (*flock.Flock, error) {
	lock := flock.New(path+".lock", flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("%w: %s.lock: %w", ErrUnavailable, path, err)
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s is open (its lock is %s.lock); stop that process first", ErrLocked, path, path)
	}
	return lock, nil
}

func sqliteDSN(path, more string) string {
	q := url.Values{
		"_pragma": {
			fmt.Sprintf("journal_size_limit(%d)", walLimit),
			fmt.Sprintf("ignore_check_constraints(%t)", mutant.CheckOff),
		},
		"_busy_timeout": {"1000"},
		"_journal_mode": {"WAL"},
		"_synchronous":  {"FULL"},
		"_foreign_keys": {"on"},
		"_dqs":          {"0"}, // "x" is a name, never a string, as in PostgreSQL
		"_error_rc":     {"1"},
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode() + "&" + more}).String()
}

// connector opens connections with a driver of the DB's own: the registered one would
// carry holdfast_now() to everybody else in the process.
type connector struct {
	driver *sqlite.Driver
	dsn    string
}

func (c *connector) Driver() driver.Driver { return c.driver }

func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return c.driver.Open(c.dsn)
}
