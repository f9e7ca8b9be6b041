package backup_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/holdfast-dev/holdfast/backup"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// A backup of what is open, and back to another place.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "backup")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	st, err := store.Open(ctx, "file:"+filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	db, err := sqldb.Open(ctx, "sqlite:"+filepath.Join(dir, "holdfast.db"), sqldb.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = db.Close() }()

	copied := filepath.Join(dir, "monday")
	if _, err := backup.Make(ctx, st, db, copied, "example"); err != nil {
		log.Fatal(err)
	}
	again := filepath.Join(dir, "again")
	m, err := backup.Restore(ctx, copied, filepath.Join(again, "store"), filepath.Join(again, "holdfast.db"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("restored what", m.Program, "made")
	_, err = backup.Restore(ctx, copied, filepath.Join(again, "store"), filepath.Join(again, "holdfast.db"))
	fmt.Println("once more:", err != nil)
	// Output:
	// restored what example made
	// once more: true
}
