package ledger

import (
	"context"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// Group applies operations of many callers together, each in a transaction that it shares with
// what arrives at the same time. One hot account is then locked once for all of them. What
// Apply promises of each operation holds here too; an operation has its outcome once it is
// committed.
func Group(db *sqldb.DB) *sqldb.Group[Op, Outcome] {
	return sqldb.NewGroup(db, func(ctx context.Context, tx *sqldb.Tx, ops []Op) ([]sqldb.Outcome[Outcome], error) {
		outcomes, err := Apply(ctx, tx, ops...)
		each := make([]sqldb.Outcome[Outcome], len(outcomes))
		for i, o := range outcomes {
			each[i] = sqldb.Outcome[Outcome]{Value: o, Err: o.Err}
		}
		return each, err
	})
}
