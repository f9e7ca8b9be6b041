package sqldb_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

// One transaction as a sale makes them: a key, a conditional update, a row, an event.
func BenchmarkWrite(b *testing.B) {
	for name, url := range map[string]func() string{
		"sqlite":   func() string { return sqldbtest.SQLite(b) },
		"postgres": func() string { return sqldbtest.Shared(b).NewSchema(b) },
	} {
		b.Run(name, func(b *testing.B) {
			db := sqldbtest.Open(b, url(), sqldb.Options{})
			ctx := b.Context()
			if err := db.Migrate(ctx, sqldb.Core()); err != nil {
				b.Fatal(err)
			}
			err := db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
				if _, err := tx.Exec(ctx, `CREATE TABLE units (id BIGINT PRIMARY KEY, held BIGINT NOT NULL)`); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `CREATE TABLE taken (id TEXT PRIMARY KEY, at BIGINT NOT NULL)`); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, `INSERT INTO units VALUES (1, 0)`)
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for i := range b.N {
				err := db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
					if _, err := tx.Exec(ctx, `UPDATE units SET held = held + 1 WHERE id = $1 AND held < $2`, 1, 1<<40); err != nil {
						return err
					}
					if _, err := tx.Exec(ctx, `INSERT INTO taken (id, at) VALUES ($1, holdfast_now())`, fmt.Sprint(i)); err != nil {
						return err
					}
					return tx.Publish(ctx, "sale", "stock", []byte(`{"held":1}`))
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
