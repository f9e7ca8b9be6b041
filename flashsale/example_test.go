package flashsale_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// Two buyers, one unit. A repeat of the first request gets the first answer.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "sale")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	st, err := store.Open(ctx, "mem:", store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	db, err := sqldb.Open(ctx, "sqlite:"+filepath.Join(dir, "sale.db"), sqldb.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.Migrate(ctx, flashsale.Schema()...); err != nil {
		log.Fatal(err)
	}
	sales, err := flashsale.New(st, db, flashsale.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = sales.Close() }()
	if err := sales.Start(ctx); err != nil {
		log.Fatal(err)
	}
	sale, err := sales.Create(ctx, flashsale.NewSale{Name: "The last chair", Stock: 1, Price: 4900, Currency: "EUR"})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range []flashsale.HoldRequest{
		{Key: "request-1", Sale: sale.ID, Buyer: "ada"},
		{Key: "request-2", Sale: sale.ID, Buyer: "bob"},
	} {
		held, err := sales.Hold(ctx, r)
		switch {
		case errors.Is(err, flashsale.ErrSoldOut):
			fmt.Println(r.Buyer, "is told: sold out")
		case err != nil:
			log.Fatal(err)
		default:
			fmt.Println(r.Buyer, "holds a unit, state", held.Hold.State)
		}
	}
	now, err := sales.Sale(ctx, sale.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("stock", now.Stock, "held", now.Held, "sold", now.Sold)
	// Output:
	// ada holds a unit, state held
	// bob is told: sold out
	// stock 1 held 1 sold 0
}
