package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

// A snapshot is what was there at the moment at which nobody wrote, however much is written while
// its pages are copied.
func TestSnapshot(t *testing.T) {
	db := onSQLite(t, sqldb.Options{})
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range int64(4) {
		all.Go(func() {
			for n := int64(0); ctx.Err() == nil; n++ {
				err := db.Write(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
					_, err := tx.Exec(ctx, `INSERT INTO t VALUES ($1, $2)`, i*1_000_000+n, n)
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for round := range 5 {
		file := filepath.Join(t.TempDir(), "copy.db")
		var then int64
		err := db.Snapshot(t.Context(), file, func(context.Context) error {
			then = number(t, db, `SELECT count(*) FROM t`)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", info, err)
		}
		copied := sqldbtest.Open(t, "sqlite:"+file, sqldb.Options{})
		if n := number(t, copied, `SELECT count(*) FROM t`); n != then || n == 0 && round > 0 {
			t.Errorf("round %d: %d rows in the copy, %d at the moment", round, n, then)
		}
		must(t, copied, `INSERT INTO t VALUES (-1, 0)`)
	}
	stop()
	all.Wait()
}

func TestSnapshotRefuses(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		dir := t.TempDir()
		file := filepath.Join(dir, "copy.db")
		if db.Dialect() == sqldb.PostgreSQL {
			if err := db.Snapshot(t.Context(), file, nil); !errors.Is(err, sqldb.ErrConfig) {
				t.Error(err)
			}
			return
		}
		odd := fmt.Errorf("odd")
		if err := db.Snapshot(t.Context(), file, func(context.Context) error { return odd }); !errors.Is(err, odd) {
			t.Error(err)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is there: %v", err)
		}
		if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := db.Snapshot(t.Context(), file, nil); !errors.Is(err, sqldb.ErrConfig) {
			t.Error(err)
		}
		if data, err := os.ReadFile(file); err != nil || string(data) != "mine" {
			t.Errorf("%s %v", data, err)
		}
	})
}
