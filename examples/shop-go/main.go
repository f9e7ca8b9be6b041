// Command shop-go sells one thing with the packages alone: no server, no Redis, no PostgreSQL.
// Everything is in one directory, and a second run goes on where the first one ended.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: shop-go DIRECTORY BUYER")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1], os.Args[2], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "shop-go:", err)
		os.Exit(1)
	}
}

// run opens what a shop stands on, from the bottom up, sells, and closes it in reverse.
func run(ctx context.Context, dir, buyer string, out io.Writer) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	decisions, err := store.Open(ctx, "file:"+filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, decisions.Close()) }()
	db, err := sqldb.Open(ctx, "sqlite:"+filepath.Join(dir, "shop.db"), sqldb.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.Migrate(ctx, flashsale.Schema()...); err != nil {
		return err
	}
	provider, err := startProvider(filepath.Join(dir, "provider.jsonl"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, provider.close()) }()

	sales, err := flashsale.New(decisions, db, flashsale.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sales.Close()) }()
	if err := sales.Start(ctx); err != nil { // mends what a crash has left
		return err
	}
	payments, err := payment.New(db, provider.client, sales, payment.Options{})
	if err != nil {
		return err
	}
	// Closing waits for what the workers have begun, also after Ctrl-C, but not for ever.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		defer cancel()
		err = errors.Join(err, payments.Close(ctx))
	}()
	payments.Start()
	return (&shop{sales, payments, out}).sell(ctx, buyer)
}

type shop struct {
	sales    *flashsale.Sales
	payments *payment.Payments
	out      io.Writer
}

// sell is the way of one unit, from the hold to the order. The keys are made of what is wanted
// (this buyer's one poster), not of when it is asked for: a second run repeats the first one and
// buys nothing twice.
func (s *shop) sell(ctx context.Context, buyer string) error {
	sale, err := s.sales.Create(ctx, flashsale.NewSale{ID: "posters", Name: "Posters", Stock: 3, Price: 1900, Currency: "EUR"})
	if err != nil {
		return err
	}
	s.print("sale     %s: %d in stock, %d sold", sale.ID, sale.Stock, sale.Sold)

	held, err := s.sales.Hold(ctx, flashsale.HoldRequest{Key: "hold " + buyer, Sale: sale.ID, Buyer: buyer})
	if err != nil {
		return err // flashsale.ErrSoldOut, ErrLimit …
	}
	hold := held.Hold
	s.print("hold     %s for %s, asked before: %t", hold.ID, hold.Buyer, held.Replayed)

	// From here on it will be settled or taken back, whatever dies.
	accepted, err := s.payments.Accept(ctx, payment.Request{
		Key: "pay " + hold.ID, Hold: hold.ID, Buyer: buyer, Amount: hold.Price, Currency: hold.Currency,
	})
	if err != nil {
		return err
	}
	s.print("payment  %s is accepted, asked before: %t", accepted.Payment.ID, accepted.Replayed)

	paid, err := s.settled(ctx, accepted.Payment.ID)
	if err != nil {
		return err
	}
	s.print("payment  %s is %s", paid.ID, paid.State)
	if paid.State != payment.Captured {
		return fmt.Errorf("not sold: the payment is %s: %s", paid.State, paid.Reason)
	}
	order, err := s.sales.GetOrder(ctx, paid.Order)
	if err != nil {
		return err
	}
	s.print("order    %s is %s: %d %s", order.ID, order.State, order.Amount, order.Currency)
	if sale, err = s.sales.Sale(ctx, sale.ID); err != nil {
		return err
	}
	s.print("sale     %s: %d in stock, %d sold", sale.ID, sale.Stock, sale.Sold)
	return nil
}

// settled asks until the workers are done with the payment.
func (s *shop) settled(ctx context.Context, id string) (p payment.Payment, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if p, err = s.payments.Get(ctx, id); err != nil {
			return p, err
		}
		switch p.State {
		case payment.Captured, payment.Voided, payment.Refunded, payment.Failed:
			return p, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return p, fmt.Errorf("payment %s is still %s: %w", id, p.State, ctx.Err())
		}
	}
}

func (s *shop) print(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }
