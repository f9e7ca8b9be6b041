package guard

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/sqldb"
)

//go:embed migrations
var migrations embed.FS

// Migrations is the table of fences, and a sequence of tokens.
func Migrations() sqldb.Migrations {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the path above is a constant
	}
	return sqldb.Migrations{Name: "guard", FS: dir}
}

// Check belongs into the transaction that writes the resource, before or after the write: it notes the
// fence, or returns ErrStale, and then the transaction has to be rolled back, as returning the
// error from sqldb's Write does. Transactions on one resource come one after the other.
//
// A table that has a column for the token can do without Check: write with
// WHERE fence <= $token, set fence = $token, and take no changed row for ErrStale.
func Check(ctx context.Context, tx *sqldb.Tx, resource string, f Fence) error {
	if err := f.check(resource); err != nil {
		return err
	}
	if mutant.GuardOff {
		return nil
	}
	n, err := tx.Exec(ctx, `
		INSERT INTO fences (resource, token, owner) VALUES ($1, $2, $3)
		ON CONFLICT (resource) DO UPDATE SET token = excluded.token, owner = excluded.owner
		WHERE fences.token < excluded.token OR (fences.token = excluded.token AND fences.owner = excluded.owner)`,
		resource, f.Token, f.Owner)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: %q, token %d", ErrStale, resource, f.Token)
	}
	return nil
}

// Sequence draws tokens from the database, for lock.Options.Fence: they grow also where the store
// of the locks may forget (class C), as long as the database does not. One round trip each.
func Sequence(db *sqldb.DB) func(ctx context.Context) (int64, error) {
	return func(ctx context.Context) (token int64, err error) {
		err = db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
			if tx.Dialect() == sqldb.PostgreSQL {
				return tx.Row(ctx, `SELECT nextval('fence_tokens')`).Scan(&token)
			}
			return tx.Row(ctx, `UPDATE fence_tokens SET last = last + 1 RETURNING last`).Scan(&token)
		})
		if err != nil {
			return 0, fmt.Errorf("guard: sequence: %w", err)
		}
		return token, nil
	}
}
