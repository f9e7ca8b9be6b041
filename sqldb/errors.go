package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// The sentinels tell what became of the write. Whatever a driver or a context said
// stays visible beside them for errors.Is and errors.As.
var (
	// ErrUnavailable: the database cannot be reached, is shutting down or was closed.
	// Nothing was committed; safe to retry.
	ErrUnavailable = errors.New("sqldb: unavailable")
	// ErrOutcomeUnknown: COMMIT was sent and its answer lost. It may have happened;
	// retry only what is idempotent.
	ErrOutcomeUnknown = errors.New("sqldb: outcome unknown")
	// ErrBusy: no connection, lock or answer in time, or a conflict that outlasted
	// the retries. Nothing was committed; safe to retry.
	ErrBusy = errors.New("sqldb: busy")
	// ErrCrowded is an ErrBusy that came at once: more waits than can be done in time.
	ErrCrowded = fmt.Errorf("%w: more is waiting than can be done in time", ErrBusy)
	// ErrFull: no space left for the database. Nothing was committed.
	ErrFull = errors.New("sqldb: full")
	// ErrLocked: another process has the SQLite file open.
	ErrLocked = errors.New("sqldb: locked by another process")
	// ErrNewer: the database was migrated by a newer program.
	ErrNewer = errors.New("sqldb: database is newer than this program")
	// ErrConfig: a URL, option or call that cannot work, whatever the database does.
	ErrConfig = errors.New("sqldb: configuration")
)

// failure is an error of the database together with what it means.
type failure struct{ kind, cause error }

func (f *failure) Error() string   { return f.kind.Error() + ": " + f.cause.Error() }
func (f *failure) Unwrap() []error { return []error{f.kind, f.cause} }

// fail adds kind to cause, unless cause has been given one before.
func fail(kind, cause error) error {
	if _, done := errors.AsType[*failure](cause); done {
		return cause
	}
	return &failure{kind, cause}
}

// classify gives an error that came before COMMIT its sentinel. What is no matter of
// the database's state (a constraint, a mistake in the SQL, an error of the caller's
// own) is returned as it is.
func (db *DB) classify(err error) error {
	if kind := db.kind(err); kind != nil {
		return fail(kind, err)
	}
	return err
}

func (db *DB) kind(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgKind(pg.Code)
	}
	if lite, ok := errors.AsType[*sqlite.Error](err); ok {
		return liteKind(lite.Code())
	}
	_, dialing := errors.AsType[*pgconn.ConnectError](err)
	switch {
	case err == nil:
		return nil
	case dialing, errors.Is(err, pgconn.ErrConnClosed), errors.Is(err, driver.ErrBadConn),
		errors.Is(err, sql.ErrConnDone), errors.Is(err, sql.ErrTxDone), pgconn.Timeout(err):
		return ErrUnavailable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		if db.dialect == PostgreSQL {
			return ErrUnavailable
		}
		return ErrBusy
	}
	return nil
}

// idleTooLong: the server ended a session whose transaction did nothing for too long.
const idleTooLong = "25P03"

func pgKind(code string) error {
	switch code {
	case "55P03", "57014", "40001", "40P01", idleTooLong: // lock or statement timeout, conflict, deadlock
		return ErrBusy
	case "53100": // disk full
		return ErrFull
	case "25006": // read-only: a standby, or a primary that has just lost its place
		return ErrUnavailable
	}
	switch code[:min(2, len(code))] {
	case "08", "53", "57", "58": // connection, resources, operator, system
		return ErrUnavailable
	}
	return nil
}

func liteKind(code int) error {
	switch code & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT:
		return ErrBusy
	case sqlite3.SQLITE_FULL:
		return ErrFull
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
		sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL:
		return ErrUnavailable
	}
	return nil
}

// openKind tells what no retry will mend (a wrong password, database or file) from a
// server that is not there yet.
func openKind(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "28P01", "28000", "3D000", "42704", "22023": // the last two: a setting that it does not know, or not so
			return fmt.Errorf("%w: %w", ErrConfig, pg)
		}
	}
	if lite, ok := errors.AsType[*sqlite.Error](err); ok && lite.Code()&0xff == sqlite3.SQLITE_NOTADB {
		return fmt.Errorf("%w: %w", ErrConfig, lite)
	}
	return err
}

// conflict reports whether running the transaction again may well succeed.
func conflict(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code == "40001" || pg.Code == "40P01"
	}
	if lite, ok := errors.AsType[*sqlite.Error](err); ok {
		code := lite.Code() & 0xff
		return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
	}
	return false
}

// classifyCommit tells what became of a COMMIT that returned an error. It does not ask
// pgconn.SafeToRetry: pgx 5.12 calls a COMMIT that was sent and whose connection then
// broke "conn closed", and that safe.
func (db *DB) classifyCommit(err error) error {
	if err == nil {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		if pg.SeverityUnlocalized == "ERROR" || pg.Code == idleTooLong {
			return db.classify(err) // the server says that it rolled back
		}
		return fail(ErrOutcomeUnknown, err) // FATAL: it may have died after the commit
	}
	if lite, ok := errors.AsType[*sqlite.Error](err); ok {
		switch lite.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CONSTRAINT:
			return db.classify(err)
		}
		return fail(ErrOutcomeUnknown, err) // a failed sync: the frames may be on disk
	}
	switch {
	case errors.Is(err, syscall.EPIPE): // one small write, refused: COMMIT never left
		return fail(ErrUnavailable, err)
	case errors.Is(err, sql.ErrTxDone), errors.Is(err, pgx.ErrTxCommitRollback):
		return db.classify(err)
	case db.dialect == SQLite && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		return db.classify(err) // interrupted before it took effect, and rolled back
	}
	return fail(ErrOutcomeUnknown, err)
}

// Constraint names the constraint that refused a statement, if one did. PostgreSQL: the
// constraint's or unique index's name. SQLite: a check's name as the SQL gives it; for
// a unique index or primary key "table.column", several joined by ", "; and for a
// trigger the text that it raised, so that RAISE(ABORT, 'name') reads like
// RAISE EXCEPTION … USING ERRCODE = 'check_violation', CONSTRAINT = 'name'.
func Constraint(err error) (name string, ok bool) {
	if pg, is := errors.AsType[*pgconn.PgError](err); is {
		if pg.Code == "23505" || pg.Code == "23514" {
			return pg.ConstraintName, true
		}
		return "", false
	}
	lite, is := errors.AsType[*sqlite.Error](err)
	if !is {
		return "", false
	}
	before := ""
	switch lite.Code() {
	case sqlite3.SQLITE_CONSTRAINT_CHECK:
		before = "CHECK constraint failed: "
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		before = "UNIQUE constraint failed: "
	case sqlite3.SQLITE_CONSTRAINT_TRIGGER:
		before = "constraint failed: "
	default:
		return "", false
	}
	_, name, _ = strings.Cut(lite.Error(), before)
	if i := strings.LastIndex(name, " ("); i >= 0 { // the driver appends " (275)"
		name = name[:i]
	}
	return name, true
}
