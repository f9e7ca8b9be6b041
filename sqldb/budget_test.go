package sqldb

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// When everything conflicts nothing is run again for long; what commits pays for retries again.
func TestRetriesArePaidFor(t *testing.T) {
	db, err := Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "db"), Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.retries.spent.Store(retryMost - 3*retryPrice)
	conflict := &pgconn.PgError{Code: "40001"}
	try := func(succeedAt int) (runs int, err error) {
		err = db.Write(t.Context(), func(_ context.Context, tx *Tx) error {
			if runs++; runs == succeedAt {
				return nil
			}
			tx.failed = db.classify(conflict)
			return tx.failed
		})
		return runs, err
	}
	if runs, err := try(-1); runs != 4 || !errors.Is(err, ErrBusy) {
		t.Errorf("with three retries left it was run %d times: %v", runs, err)
	}
	if runs, err := try(-1); runs != 1 || !errors.Is(err, ErrBusy) {
		t.Errorf("with none left it was run %d times: %v", runs, err)
	}
	for range retryPrice / retryEarned {
		if _, err := try(1); err != nil {
			t.Fatal(err)
		}
	}
	if runs, err := try(2); runs != 2 || err != nil {
		t.Errorf("with one earned it was run %d times: %v", runs, err)
	}
}

func TestBudget(t *testing.T) {
	var b budget
	n := 0
	for b.spend() {
		n++
	}
	if n != retryMost/retryPrice {
		t.Errorf("a full budget pays for %d", n)
	}
	b.spent.Store(1)
	b.earn()
	b.earn()
	if b.spent.Load() != 0 {
		t.Errorf("more was earned than there can be: %d", b.spent.Load())
	}
}
