package sqldb_test

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

func TestSmoke(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		if err := db.Migrate(ctx, sqldb.Core()); err != nil {
			t.Fatal(err)
		}
		ran := 0
		err := db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
			tx.AfterCommit(func() { ran++ })
			return tx.Publish(ctx, "a", "b", []byte("c"))
		})
		if err != nil || ran != 1 {
			t.Fatal(err, ran)
		}
		events, err := db.Events(ctx, "a", sqldb.Cursor{}, 10)
		if err != nil || len(events) != 1 || string(events[0].Payload) != "c" {
			t.Fatal(events, err)
		}
		if d := time.Since(time.UnixMicro(events[0].At)); d < -time.Second || d > time.Minute {
			t.Fatal(d)
		}
		last, err := db.LastCursor(ctx, "a")
		if err != nil || last != events[0].Cursor {
			t.Fatal(last, err)
		}
		n, err := db.TrimEvents(ctx, -time.Minute, 10)
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
	})
}
