package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
)

// Tx is a running transaction. It is used by one goroutine and not after fn returned.
type Tx struct {
	db     *DB
	conn   *sql.Conn
	tx     *sql.Tx
	after  []func()
	failed error // first error of a statement: nothing more runs, nothing is committed
}

// inside marks a context that belongs to a running transaction.
type inside struct{ db *DB }

// Write runs fn in a transaction that may write, and commits it when fn returns nil. fn
// may run more than once (see the package comment). When fn returns an error or panics,
// the transaction is rolled back; an error comes back wrapped. ctx ends the transaction
// until COMMIT is sent, and not after that.
//
// PostgreSQL: READ COMMITTED. SQLite: BEGIN IMMEDIATE on the one writer.
func (db *DB) Write(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	return db.run(ctx, db.writer, nil, fn)
}

// Read runs fn in a read-only transaction in which all statements see one snapshot.
func (db *DB) Read(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	return db.run(ctx, db.reader, &sql.TxOptions{Isolation: db.snapshot(), ReadOnly: true}, fn)
}

func (db *DB) snapshot() sql.IsolationLevel {
	if db.dialect == PostgreSQL {
		return sql.LevelRepeatableRead
	}
	return sql.LevelDefault // in WAL mode a reader always has one
}

func (db *DB) run(ctx context.Context, from *pool, opts *sql.TxOptions, fn func(context.Context, *Tx) error) error {
	if ctx.Value(inside{db}) != nil {
		return fmt.Errorf("%w: a transaction inside a transaction", ErrConfig)
	}
	after, err := db.retry(ctx, from, opts, fn)
	if errors.Is(err, ErrOutcomeUnknown) {
		db.opts.Logger.WarnContext(ctx, "sqldb: the outcome of a commit is unknown", "error", err)
	}
	for _, f := range after {
		f()
	}
	return err
}

func (db *DB) retry(ctx context.Context, from *pool, opts *sql.TxOptions, fn func(context.Context, *Tx) error) ([]func(), error) {
	if err := db.enter(); err != nil {
		return nil, err
	}
	defer db.running.Done()
	ctx, cancel := context.WithTimeout(ctx, db.opts.Timeout)
	defer cancel()
	var met error // the last conflict
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		after, err := db.attempt(ctx, from, opts, fn)
		if met != nil && err != nil && ctx.Err() != nil && !errors.Is(err, ErrOutcomeUnknown) {
			return nil, met // the time was spent on conflicts, wherever it ended
		}
		if err == nil {
			db.retries.earn()
		}
		if err == nil || !conflict(err) || errors.Is(err, ErrOutcomeUnknown) || !db.retries.spend() {
			return after, err
		}
		met = err
		if sleep(ctx, rand.N(wait)) != nil { // jitter, so that two that met do not meet again
			return nil, err
		}
	}
}

// attempt runs fn once and returns what is to run after the commit.
func (db *DB) attempt(ctx context.Context, from *pool, opts *sql.TxOptions, fn func(context.Context, *Tx) error) ([]func(), error) {
	if err := from.turns.take(ctx); err != nil {
		return nil, fail(ErrBusy, fmt.Errorf("waiting for a connection: %w", err))
	}
	defer from.turns.give()
	t, err := db.begin(ctx, from, opts)
	if err != nil {
		return nil, err
	}
	defer t.conn.Close()
	defer t.tx.Rollback() // does nothing after Commit; runs when fn panics, too
	err = fn(context.WithValue(ctx, inside{db}, true), t)
	switch {
	case t.failed != nil && (err == nil || conflict(t.failed) || errors.Is(err, context.Canceled)):
		return nil, t.failed // what fn made of it hides more than it says
	case err != nil:
		return nil, t.explain(err)
	case opts != nil && opts.ReadOnly:
		return t.after, nil
	case ctx.Err() != nil:
		return nil, db.classify(ctx.Err())
	case t.lost():
		return nil, fmt.Errorf("%w: the connection broke before COMMIT", ErrUnavailable)
	}
	if err := db.classifyCommit(t.tx.Commit()); err != nil {
		return nil, err
	}
	return t.after, nil
}

// begin takes a connection and begins a transaction on it. Pooled connections that died
// while nobody used them are replaced; a dial that fails is not tried again.
func (db *DB) begin(ctx context.Context, from *pool, opts *sql.TxOptions) (*Tx, error) {
	for range db.opts.MaxConns + 1 {
		conn, err := from.Conn(ctx)
		if err != nil {
			return nil, db.beginFailure(err)
		}
		t := &Tx{db: db, conn: conn}
		if t.tx, err = db.beginOn(ctx, conn, opts); err == nil {
			return t, nil
		}
		lost := t.lost()
		conn.Close()
		if ctx.Err() != nil || !lost {
			return nil, db.beginFailure(err)
		}
	}
	return nil, fmt.Errorf("%w: every connection is dead", ErrUnavailable)
}

// beginFailure classifies what kept a transaction from beginning. Whatever it was,
// nothing was written.
func (db *DB) beginFailure(err error) error {
	if kind := db.kind(err); kind != nil {
		return fail(kind, err)
	}
	return fail(ErrUnavailable, err)
}

// beginOn begins with a context that outlives ctx by the grace of COMMIT, but only once
// BEGIN has been answered.
func (db *DB) beginOn(ctx context.Context, conn *sql.Conn, opts *sql.TxOptions) (*sql.Tx, error) {
	deadline, _ := ctx.Deadline()
	txCtx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline.Add(commitGrace))
	stop := context.AfterFunc(ctx, cancel)
	tx, err := conn.BeginTx(txCtx, opts)
	if !stop() || err != nil {
		cancel()
	}
	return tx, err
}

// lost reports whether the transaction's connection is gone.
func (t *Tx) lost() bool {
	if t.db.dialect == SQLite {
		return false
	}
	closed := true
	_ = t.conn.Raw(func(c any) error {
		if c, ok := c.(*stdlib.Conn); ok {
			closed = c.Conn().IsClosed()
		}
		return nil
	})
	return closed
}

// explain classifies an error that ended the transaction before COMMIT. When the
// connection is gone that is what happened, however the driver words it.
func (t *Tx) explain(err error) error {
	if kind := t.db.kind(err); kind == nil && t.lost() {
		return fail(ErrUnavailable, err)
	}
	return t.db.classify(err)
}

// note remembers the first error of a statement.
func (t *Tx) note(err error) error {
	if err == nil {
		return nil
	}
	err = t.explain(err)
	if t.failed == nil {
		t.failed = err
	}
	return err
}

func (t *Tx) refuse() error {
	return fmt.Errorf("sqldb: an earlier statement of this transaction failed: %w", t.failed)
}

// Exec runs a statement and returns how many rows it changed.
func (t *Tx) Exec(ctx context.Context, query string, args ...any) (affected int64, err error) {
	if t.failed != nil {
		return 0, t.refuse()
	}
	res, err := t.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, t.note(err)
	}
	affected, err = res.RowsAffected()
	return affected, t.note(err)
}

// Query runs a statement that returns rows. Close them before the next statement:
// PostgreSQL has one answer at a time.
func (t *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if t.failed != nil {
		return nil, t.refuse()
	}
	rows, err := t.tx.QueryContext(ctx, query, args...)
	return rows, t.note(err)
}

// Row runs a statement that returns at most one row; Scan returns sql.ErrNoRows when
// there is none.
func (t *Tx) Row(ctx context.Context, query string, args ...any) *sql.Row {
	if t.failed != nil {
		ended, cancel := context.WithCancelCause(ctx)
		cancel(t.refuse())
		return t.tx.QueryRowContext(ended, query, args...)
	}
	row := t.tx.QueryRowContext(ctx, query, args...)
	_ = t.note(row.Err())
	return row
}

// Dialect says which SQL the database speaks.
func (t *Tx) Dialect() Dialect { return t.db.dialect }

// ForUpdate ends a SELECT whose rows nobody else may change before this transaction
// ends. SQLite needs no such words: Write has no rival there.
func (t *Tx) ForUpdate() string {
	if t.db.dialect == PostgreSQL {
		return " FOR UPDATE"
	}
	return ""
}

// SkipLocked is ForUpdate that leaves out rows which others have locked.
func (t *Tx) SkipLocked() string {
	if t.db.dialect == PostgreSQL {
		return " FOR UPDATE SKIP LOCKED"
	}
	return ""
}

// AfterCommit has fn run once when the transaction has been committed, on the caller's
// goroutine, after those that were added before. It does not run when the transaction
// is rolled back or its outcome is unknown.
func (t *Tx) AfterCommit(fn func()) { t.after = append(t.after, fn) }

// Now is the engine's clock, in µs since the epoch.
func (t *Tx) Now(ctx context.Context) (us int64, err error) {
	err = t.Row(ctx, `SELECT holdfast_now()`).Scan(&us)
	return us, err
}
