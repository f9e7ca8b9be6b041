package server_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/payment/paysim"
	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// The API inside a program of your own. The same key twice gets the same bytes.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "server")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var end []func()
	defer func() {
		for i := len(end) - 1; i >= 0; i-- {
			end[i]()
		}
	}()
	st, err := store.Open(ctx, "mem:", store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	end = append(end, func() { _ = st.Close() })
	db, err := sqldb.Open(ctx, "sqlite:"+filepath.Join(dir, "shop.db"), sqldb.Options{})
	if err != nil {
		log.Fatal(err)
	}
	end = append(end, func() { _ = db.Close() })
	if err := db.Migrate(ctx, flashsale.Schema()...); err != nil {
		log.Fatal(err)
	}
	sales, err := flashsale.New(st, db, flashsale.Options{})
	if err != nil {
		log.Fatal(err)
	}
	end = append(end, func() { _ = sales.Close() })
	if err := sales.Start(ctx); err != nil {
		log.Fatal(err)
	}
	provider, err := paysim.NewClient("http://127.0.0.1:1") // nobody pays in this example
	if err != nil {
		log.Fatal(err)
	}
	payments, err := payment.New(db, provider, sales, payment.Options{})
	if err != nil {
		log.Fatal(err)
	}
	end = append(end, func() { _ = payments.Close(ctx) })
	api, err := server.New(server.Config{Store: st, DB: db, Sales: sales, Payments: payments})
	if err != nil {
		log.Fatal(err)
	}
	end = append(end, func() { _ = api.Close() })
	web := httptest.NewServer(api.Handler())
	end = append(end, web.Close)

	post := func(path, key, body string) (status int, answer string) {
		req, err := http.NewRequest(http.MethodPost, web.URL+path, strings.NewReader(body))
		if err != nil {
			log.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			log.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	status, _ := post("/v1/sales", "", `{"id":"chairs","name":"The last chair","stock":1,"price":4900,"currency":"EUR"}`)
	fmt.Println("the sale:", status)
	status, first := post("/v1/sales/chairs/holds", "request-1", `{"buyer":"ada"}`)
	fmt.Println("ada:", status)
	status, again := post("/v1/sales/chairs/holds", "request-1", `{"buyer":"ada"}`)
	fmt.Println("ada, repeated:", status, first == again)
	status, _ = post("/v1/sales/chairs/holds", "request-2", `{"buyer":"bob"}`)
	fmt.Println("bob:", status)
	http.DefaultClient.CloseIdleConnections()
	// Output:
	// the sale: 201
	// ada: 201
	// ada, repeated: 201 true
	// bob: 409
}
