package sqldb_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// A transaction that publishes an event with its change, and a reader that follows events.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "shop")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sqldb.Open(ctx, "sqlite:"+filepath.Join(dir, "shop.db"), sqldb.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.Migrate(ctx, sqldb.Core()); err != nil {
		log.Fatal(err)
	}
	err = db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, `CREATE TABLE chairs (id TEXT PRIMARY KEY, n BIGINT CHECK (n >= 0))`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO chairs VALUES ('oak', 1)`)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		err = db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
			if _, err := tx.Exec(ctx, `UPDATE chairs SET n = n - 1 WHERE id = $1`, "oak"); err != nil {
				return err
			}
			return tx.Publish(ctx, "shop", "sold", []byte(`{"chair":"oak"}`))
		})
		_, refused := sqldb.Constraint(err)
		fmt.Println("refused:", refused)
	}
	events, err := db.Events(ctx, "shop", sqldb.Cursor{}, 10)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range events {
		fmt.Println(e.Kind, string(e.Payload))
	}
	// Output:
	// refused: false
	// refused: true
	// sold {"chair":"oak"}
}

// Callers that come together share a transaction; each gets its own outcome.
func ExampleGroup() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "counter")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sqldb.Open(ctx, "sqlite:"+filepath.Join(dir, "counter.db"), sqldb.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.Migrate(ctx, sqldb.Core()); err != nil {
		log.Fatal(err)
	}
	err = db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `CREATE TABLE words (word TEXT, n BIGINT)`)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	words := sqldb.NewGroup(db, func(ctx context.Context, tx *sqldb.Tx, in []string) ([]sqldb.Outcome[int], error) {
		out := make([]sqldb.Outcome[int], len(in))
		var rows sqldb.Rows
		for i, w := range in {
			out[i].Value = len(w)
			rows.Add(w, len(w))
		}
		_, err := tx.Exec(ctx, `INSERT INTO words SELECT word, n FROM `+tx.List("$1", "word text", "n bigint"), rows)
		return out, err
	})
	n, err := words.Do(ctx, "holdfast")
	fmt.Println(n, err)
	// Output: 8 <nil>
}
