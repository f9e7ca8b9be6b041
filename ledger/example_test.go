package ledger_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// Money is held, half of it is taken, and the books are looked through. Each operation has an
// id: repeated, it has no second effect.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "books")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sqldb.Open(ctx, "sqlite:"+filepath.Join(dir, "books.db"), sqldb.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.Migrate(ctx, sqldb.Core(), ledger.Migrations()); err != nil {
		log.Fatal(err)
	}
	err = db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		err := ledger.Open(ctx, tx,
			ledger.Account{ID: "bank", Kind: ledger.Asset, Currency: "EUR", Overdraft: true},
			ledger.Account{ID: "ada", Kind: ledger.Liability, Currency: "EUR"},
			ledger.Account{ID: "shop", Kind: ledger.Liability, Currency: "EUR"})
		if err != nil {
			return err
		}
		outcomes, err := ledger.Apply(ctx, tx,
			ledger.Transfer{ID: "top-up", Debit: "bank", Credit: "ada", Amount: 10_00, Currency: "EUR"},
			ledger.Transfer{ID: "chair", Debit: "ada", Credit: "shop", Amount: 8_00, Currency: "EUR", Pending: true},
			ledger.Transfer{ID: "table", Debit: "ada", Credit: "shop", Amount: 8_00, Currency: "EUR", Pending: true},
			ledger.Post{ID: "sold", Transfer: "chair", Amount: 4_00},
			ledger.Post{ID: "sold", Transfer: "chair", Amount: 4_00},
		)
		for _, o := range outcomes {
			fmt.Println(o.Err, o.Replayed)
		}
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	report, err := ledger.Check(ctx, db, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the books are right:", report.OK())
	// Output:
	// <nil> false
	// <nil> false
	// ledger: insufficient funds: account "ada" false
	// <nil> false
	// <nil> true
	// the books are right: true
}
