package payment_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// bank is a provider that says yes to everything.
type bank struct{}

func (bank) Authorise(context.Context, string, int64, string, string) (payment.Result, error) {
	return payment.Result{Status: payment.StatusAuthorised}, nil
}

func (bank) Capture(context.Context, string) (payment.Result, error) {
	return payment.Result{Status: payment.StatusCaptured}, nil
}

func (bank) Void(context.Context, string) (payment.Result, error) {
	return payment.Result{Status: payment.StatusVoided}, nil
}

func (bank) Refund(context.Context, string) (payment.Result, error) {
	return payment.Result{Status: payment.StatusRefunded}, nil
}

func (bank) Lookup(context.Context, string) (payment.Result, error) {
	return payment.Result{Status: payment.StatusUnknown}, nil
}

// A unit is held and paid for; what was accepted is captured by itself.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "payment")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	st, err := store.Open(ctx, "mem:", store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	db, err := sqldb.Open(ctx, "sqlite:"+filepath.Join(dir, "shop.db"), sqldb.Options{})
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
	payments, err := payment.New(db, bank{}, sales, payment.Options{})
	if err != nil {
		log.Fatal(err)
	}
	payments.Start()
	defer func() { _ = payments.Close(ctx) }()

	sale, err := sales.Create(ctx, flashsale.NewSale{Name: "The last chair", Stock: 1, Price: 4900, Currency: "EUR"})
	if err != nil {
		log.Fatal(err)
	}
	held, err := sales.Hold(ctx, flashsale.HoldRequest{Key: "hold-1", Sale: sale.ID, Buyer: "ada"})
	if err != nil {
		log.Fatal(err)
	}
	accepted, err := payments.Accept(ctx, payment.Request{
		Key: "pay-1", Hold: held.Hold.ID, Buyer: "ada", Amount: 4900, Currency: "EUR", Source: "card-1",
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("accepted:", accepted.Payment.State)
	pay := accepted.Payment
	for deadline := time.Now().Add(10 * time.Second); !pay.State.Final() && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
		if pay, err = payments.Get(ctx, pay.ID); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("later:", pay.State, "with an order:", pay.Order != "")
	// Output:
	// accepted: pending
	// later: captured with an order: true
}
