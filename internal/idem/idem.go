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
	"embed"
	"errors"
	"io/fs"
	"maps"
	"slices"
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

// scope and request are hashes.
func (k Key) scope() string   { h := sha256.Sum256([]byte(k.Scope)); return string(h[:]) }
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

// Begun is what Begin found of a key. Answer is that of an earlier request; Err is ErrReused
// or sqldb.ErrBusy (its row is being swept; try again). Twin is the place of another key of the
// same call with the same scope, whose outcome this one shares; -1 for none. When none of them
// is set the caller does the work and gives the answer to Finish.
type Begun struct {
	Answer []byte
	Err    error
	Twin   int
}

// Fresh says that the work is to be done.
func (b Begun) Fresh() bool { return b.Answer == nil && b.Err == nil && b.Twin < 0 }

// Begin is the transaction's first step: it looks for earlier answers, and keeps the others'
// keys, in their order, until the transaction ends. Errors: those of sqldb (ErrBusy: one of the
// keys is in a transaction that is still running).
func Begin(ctx context.Context, tx *sqldb.Tx, life time.Duration, keys ...Key) ([]Begun, error) {
	begun := make([]Begun, len(keys))
	first := map[string]int{} // scope → place
	for i, k := range keys {
		begun[i].Twin = -1
		if scope := k.scope(); first[scope] == 0 {
			first[scope] = i + 1
		}
	}
	if mutant.IdempotencyOff {
		return begun, nil
	}
	written, err := claim(ctx, tx, keys, first, life)
	if err != nil {
		return nil, err
	}
	var known []Key
	for scope, place := range first {
		if !written[scope] {
			known = append(known, keys[place-1])
		}
	}
	answers, err := find(ctx, tx, known...)
	if err != nil {
		return nil, err
	}
	for i, k := range keys {
		scope := k.scope()
		if a, there := answers[scope]; there {
			begun[i].Answer, begun[i].Err = a.to(k)
		} else if !written[scope] {
			begun[i].Err = sqldb.ErrBusy // it was there a moment ago; it was swept in between
		} else if j := first[scope] - 1; i != j {
			begun[i] = twin(k, keys[j], j)
		}
	}
	return begun, nil
}

// twin is a key whose scope is in the call twice.
func twin(k, first Key, place int) Begun {
	if !bytes.Equal(k.request(), first.request()) {
		return Begun{Err: ErrReused, Twin: -1}
	}
	return Begun{Twin: place}
}

// claim writes rows for scopes that have none, or an expired one, and says which.
func claim(ctx context.Context, tx *sqldb.Tx, keys []Key, first map[string]int, life time.Duration) (map[string]bool, error) {
	var rows sqldb.Rows
	for _, scope := range slices.Sorted(maps.Keys(first)) { // so that two transactions cannot wait for each other
		rows.Add(sqldb.Bytes(scope), sqldb.Bytes(keys[first[scope]-1].request()))
	}
	written := map[string]bool{}
	return written, each(ctx, tx, func(scan func(...any) error) error {
		var scope []byte
		err := scan(&scope)
		written[string(scope)] = true
		return err
	}, `INSERT INTO idempotency_keys (scope, request, answer, expires_at)
		SELECT scope, request, $2, holdfast_now() + $3 FROM `+tx.List("$1", "scope bytea", "request bytea")+` WHERE true
		ON CONFLICT (scope) DO UPDATE
		SET request = excluded.request, answer = excluded.answer, expires_at = excluded.expires_at
		WHERE idempotency_keys.expires_at <= holdfast_now()
		RETURNING scope`, rows, []byte{}, life.Microseconds())
}

func each(ctx context.Context, tx *sqldb.Tx, row func(scan func(...any) error) error, query string, args ...any) error {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Done is a key whose work is done, or was refused: then Answer is nil and the key forgotten.
type Done struct {
	Key    Key
	Answer []byte
}

// Finish stores answers, in the transaction that began their keys.
func Finish(ctx context.Context, tx *sqldb.Tx, done ...Done) error {
	if mutant.IdempotencyOff {
		return nil
	}
	var answers, refused sqldb.Rows
	for _, d := range done {
		if d.Answer == nil {
			refused.Add(sqldb.Bytes(d.Key.scope()))
		} else {
			answers.Add(sqldb.Bytes(d.Key.scope()), sqldb.Bytes(d.Answer))
		}
	}
	if len(answers) > 0 {
		_, err := tx.Exec(ctx, `UPDATE idempotency_keys SET answer = list.answer
			FROM `+tx.List("$1", "scope bytea", "answer bytea")+` WHERE idempotency_keys.scope = list.scope`, answers)
		if err != nil {
			return err
		}
	}
	if len(refused) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `DELETE FROM idempotency_keys WHERE scope IN (SELECT scope FROM `+tx.List("$1", "scope bytea")+`)`, refused)
	return err
}

// Lookup returns the stored answer, nil when there is none. Errors: ErrReused, and those of
// sqldb.
func Lookup(ctx context.Context, db *sqldb.DB, key Key) (answer []byte, err error) {
	if mutant.IdempotencyOff {
		return nil, nil
	}
	err = db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		found, err := find(ctx, tx, key)
		if a, there := found[key.scope()]; there {
			answer, err = a.to(key)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

type stored struct{ request, answer []byte }

// to is what a key gets of it.
func (s stored) to(k Key) ([]byte, error) {
	if !bytes.Equal(s.request, k.request()) {
		return nil, ErrReused
	}
	return s.answer, nil
}

// find returns what is stored under keys, by their scopes.
func find(ctx context.Context, tx *sqldb.Tx, keys ...Key) (map[string]stored, error) {
	found := map[string]stored{}
	if len(keys) == 0 {
		return found, nil
	}
	var rows sqldb.Rows
	for _, k := range keys {
		rows.Add(sqldb.Bytes(k.scope()))
	}
	return found, each(ctx, tx, func(scan func(...any) error) error {
		var scope []byte
		var s stored
		err := scan(&scope, &s.request, &s.answer)
		found[string(scope)] = s
		return err
	}, `SELECT scope, request, answer FROM idempotency_keys
		WHERE scope IN (SELECT scope FROM `+tx.List("$1", "scope bytea")+`) AND expires_at > holdfast_now()`, rows)
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
