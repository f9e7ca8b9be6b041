// Package idem stores the answer of a request under its idempotency key, in the transaction
// that does the work.
//
// Promised: of all transactions that Begin with one scope and commit within the key's life,
// one did the work, and every other gets its answer, byte for byte. A duplicate that comes
// while the first is running waits for it, as long as a lock is waited for. There is no claim
// ahead of the work: a crash leaves all of it or nothing, so it cannot wedge a key.
//
// Not promised: anything after the key has expired; then the same request is a new one.
//
// Cost: one row, written twice in the same transaction.
package idem

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"errors"
	"io/fs"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// ErrReused: the scope belongs to another request. Nothing was written.
var ErrReused = errors.New("idempotency key was used for another request")

// Key identifies a request. Scope is who asked for what under which key; Request is what the
// answer depends on, in a canonical form. Both are stored as hashes.
type Key struct {
	Scope   string
	Request []byte
}

func (k Key) scope() []byte   { h := sha256.Sum256([]byte(k.Scope)); return h[:] }
func (k Key) request() []byte { h := sha256.Sum256(k.Request); return h[:] }

//go:embed migrations
var migrations embed.FS

// Migrations is the table of stored answers.
func Migrations() sqldb.Migrations {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the path above is a constant
	}
	return sqldb.Migrations{Name: "idem", FS: dir}
}

// Begin is the transaction's first step. It returns the stored answer of an earlier request,
// or nil, and then the caller does the work and calls Finish in the same transaction. Errors:
// ErrReused, and those of sqldb (ErrBusy: the first request is still running).
func Begin(ctx context.Context, tx *sqldb.Tx, key Key, life time.Duration) (answer []byte, err error) {
	if mutant.IdempotencyOff {
		return nil, nil
	}
	n, err := tx.Exec(ctx, `
		INSERT INTO idempotency_keys (scope, request, answer, expires_at)
		VALUES ($1, $2, $3, holdfast_now() + $4)
		ON CONFLICT (scope) DO UPDATE
		SET request = excluded.request, answer = excluded.answer, expires_at = excluded.expires_at
		WHERE idempotency_keys.expires_at <= holdfast_now()`,
		key.scope(), key.request(), []byte{}, life.Microseconds())
	if err != nil || n == 1 {
		return nil, err
	}
	answer, err = find(ctx, tx, key)
	if err == nil && answer == nil {
		// The row was there a moment ago; it was swept in between.
		err = sqldb.ErrBusy
	}
	return answer, err
}

// Finish stores the answer, which must not be empty.
func Finish(ctx context.Context, tx *sqldb.Tx, key Key, answer []byte) error {
	if mutant.IdempotencyOff {
		return nil
	}
	_, err := tx.Exec(ctx, `UPDATE idempotency_keys SET answer = $2 WHERE scope = $1`, key.scope(), answer)
	return err
}

// Lookup returns the stored answer, nil when there is none. Errors: ErrReused, and those of
// sqldb.
func Lookup(ctx context.Context, db *sqldb.DB, key Key) (answer []byte, err error) {
	if mutant.IdempotencyOff {
		return nil, nil
	}
	err = db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		answer, err = find(ctx, tx, key)
		return err
	})
	return answer, err
}

func find(ctx context.Context, tx *sqldb.Tx, key Key) ([]byte, error) {
	var request, answer []byte
	err := tx.Row(ctx, `
		SELECT request, answer FROM idempotency_keys
		WHERE scope = $1 AND expires_at > holdfast_now()`, key.scope()).Scan(&request, &answer)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	case !bytes.Equal(request, key.request()):
		return nil, ErrReused
	}
	return answer, nil
}

// Sweep removes up to limit keys that have expired and says how many.
func Sweep(ctx context.Context, db *sqldb.DB, limit int) (removed int64, err error) {
	err = db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		removed, err = tx.Exec(ctx, `
			DELETE FROM idempotency_keys WHERE scope IN (
				SELECT scope FROM idempotency_keys WHERE expires_at <= holdfast_now()
				ORDER BY expires_at LIMIT $1`+tx.SkipLocked()+`)`, limit)
		return err
	})
	return removed, err
}
