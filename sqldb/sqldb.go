// Package sqldb opens a SQLite file or a PostgreSQL database behind one API:
// transactions, migrations and an outbox.
//
// Promised: when Write returns nil, the transaction is on disk (SQLite: WAL with
// synchronous=FULL; PostgreSQL: as the server is configured, by default the same). When
// it returns an error, the error says what became of it: only ErrOutcomeUnknown leaves
// that open. A reader of Events never skips a row. A SQLite file belongs to one process.
//
// Not promised: that fn runs once; Write runs it again after a deadlock or a conflict,
// so it has no effects but through tx and AfterCommit. Nor that events of transactions
// which overlapped come in the order in which they committed: put a version into the
// payload where that matters.
//
// Retries: ErrUnavailable, ErrBusy and ErrFull mean that nothing was committed. After
// ErrOutcomeUnknown repeat only what is idempotent. Write's own retries are paid for by
// transactions that commit: where nearly all conflict, they end (ErrBusy).
//
// Cost: a transaction on PostgreSQL is a round trip to begin, one for each statement and
// one to commit. SQLite has one writer: transactions queue for it, and a commit costs
// one sync of the disk.
//
// Statements are written once, with PostgreSQL's placeholders ($1, $2, …), which SQLite
// takes too; holdfast_now() is the engine's clock on both, in µs since the epoch. After
// a statement has failed its transaction can only end, on both engines.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Dialect is the kind of SQL that a database speaks.
type Dialect string

// The dialects, which are also the names of the directories of migrations.
const (
	SQLite     Dialect = "sqlite"
	PostgreSQL Dialect = "postgres"
)

// commitGrace is what COMMIT is given beyond a transaction's own deadline, so that a
// caller who leaves at the last moment does not turn a yes or no into an unknown.
const commitGrace = 2 * time.Second

// Options of Open. The zero value works.
type Options struct {
	// MaxConns: most connections. PostgreSQL: default 16. SQLite: most readers, default
	// 4; the writer is one more. 1..1000.
	MaxConns int
	// Timeout: longest one transaction, waiting and retries included; COMMIT may take
	// 2s more. Default 5s; 100ms..10m. A caller's own earlier deadline holds too.
	Timeout time.Duration
	// Logger: what was migrated, and unknown outcomes. Default: discard.
	Logger *slog.Logger
}

func (o Options) withDefaults(d Dialect) (Options, error) {
	if o.MaxConns == 0 {
		o.MaxConns = 4
		if d == PostgreSQL {
			o.MaxConns = 16
		}
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.MaxConns < 1 || o.MaxConns > 1000 {
		return o, fmt.Errorf("%w: MaxConns %d is not in 1..1000", ErrConfig, o.MaxConns)
	}
	if o.Timeout < 100*time.Millisecond || o.Timeout > 10*time.Minute {
		return o, fmt.Errorf("%w: Timeout %s is not in 100ms..10m", ErrConfig, o.Timeout)
	}
	return o, nil
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	dialect   Dialect
	opts      Options
	writer    *pool          // SQLite: of one connection
	reader    *pool          // PostgreSQL: the same as writer
	migrator  func() *sql.DB // PostgreSQL: a pool without the limits of a request
	snapshots func() *sql.DB // SQLite: one connection more, for a snapshot
	release   func() error   // gives back what other processes wait for

	retries budget

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
	once    sync.Once
	err     error
}

// Open opens the database at rawURL and asks it one question, so that a wrong address
// or password fails here:
//
//	sqlite:PATH      a file, created with mode 0600 in a directory created with 0700
//	postgres://…     as pgx takes it; statement_timeout, lock_timeout and the like are
//	                 set unless the URL sets them
//
// It does not migrate.
func Open(ctx context.Context, rawURL string, opts Options) (*DB, error) {
	var db *DB
	var err error
	switch scheme, rest, _ := strings.Cut(rawURL, ":"); scheme {
	case "sqlite":
		db, err = openSQLite(rest, opts)
	case "postgres", "postgresql":
		db, err = openPostgres(rawURL, opts)
	default:
		return nil, errScheme
	}
	if err != nil {
		return nil, err
	}
	if err := db.Ping(ctx); err != nil {
		return nil, errors.Join(openKind(err), db.Close())
	}
	return db, nil
}

// CheckURL says whether Open understands rawURL and opts. It asks nobody and makes nothing. Error:
// ErrConfig.
func CheckURL(rawURL string, opts Options) (err error) {
	switch scheme, rest, _ := strings.Cut(rawURL, ":"); scheme {
	case "sqlite":
		if _, err = opts.withDefaults(SQLite); err == nil {
			_, err = sqliteName(rest)
		}
	case "postgres", "postgresql":
		if _, err = opts.withDefaults(PostgreSQL); err == nil {
			_, err = parsePostgres(rawURL)
		}
	default:
		err = errScheme
	}
	return err
}

var errScheme = fmt.Errorf("%w: a database URL begins with sqlite: or postgres://", ErrConfig)

// Dialect says which SQL the database speaks.
func (db *DB) Dialect() Dialect { return db.dialect }

// Ping asks the database for an answer, over a connection as every other call has it.
func (db *DB) Ping(ctx context.Context) error {
	return db.Read(ctx, func(ctx context.Context, tx *Tx) error {
		var one int
		return tx.Row(ctx, "SELECT 1").Scan(&one)
	})
}

// enter counts a transaction that begins; Close waits for it.
func (db *DB) enter() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return fmt.Errorf("%w: closed", ErrUnavailable)
	}
	db.running.Add(1)
	return nil
}

// Close refuses new transactions, waits for the running ones, which Options.Timeout
// bounds, and gives the database back. Later calls return the first one's result.
func (db *DB) Close() error {
	db.once.Do(func() {
		db.mu.Lock()
		db.closed = true
		db.mu.Unlock()
		db.err = errors.Join(db.drain(), db.reader.Close(), db.writer.Close())
		if db.err == nil {
			db.err = db.release()
		}
	})
	return db.err
}

// drain waits for running transactions. One that ignores its context keeps the file
// locked: another process must not write beside it.
func (db *DB) drain() error {
	done := make(chan struct{})
	go func() { db.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(db.opts.Timeout + 2*commitGrace):
		return errors.New("sqldb: close: a transaction outlasted its deadline")
	}
}
