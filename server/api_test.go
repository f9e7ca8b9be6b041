package server_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/server"
)

func TestFromSaleToOrder(t *testing.T) {
	r := newRig(t)
	r.sale("drop", 2)
	hold := r.hold("drop", "ada")
	accepted, location := r.pay(hold)
	if accepted.State != payment.Pending || location != "/v1/payments/"+accepted.ID {
		t.Errorf("accepted %+v at %s", accepted, location)
	}
	var p payment.Payment
	r.until("captured", func() bool {
		r.want(200, "GET", location, "", &p)
		return p.State == payment.Captured
	})
	var order flashsale.Order
	r.want(200, "GET", "/v1/orders/"+p.Order, "", &order)
	if order.Hold != hold.ID || order.Payment != p.ID || order.Buyer != "ada" || order.Amount != 4200 || order.State != flashsale.OrderConfirmed {
		t.Errorf("order %+v", order)
	}
	var sale flashsale.Sale
	r.want(200, "GET", "/v1/sales/drop", "", &sale)
	if sale.Held != 0 || sale.Sold != 1 {
		t.Errorf("sale %+v", sale)
	}
	if kind, _ := r.do("DELETE", "/v1/sales/drop/holds/"+hold.ID, "").problem(); kind != "hold-paid" {
		t.Errorf("releasing what is sold: %s", kind)
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t)
	r.sale("drop", 1)
	first := r.hold("drop", "ada")
	post := func(path, body, key string) answer { return r.do("POST", path, body, "Idempotency-Key", key) }

	a := post("/v1/sales/drop/holds", `{"buyer":"bob"}`, `"b"`)
	if kind, _ := a.problem(); a.status != 409 || kind != "sold-out" || a.header.Get("Retry-After") == "" {
		t.Errorf("sold out: %s %v", a, a.header)
	}
	r.want(204, "DELETE", "/v1/sales/drop/holds/"+first.ID, "", nil)
	r.want(204, "DELETE", "/v1/sales/drop/holds/"+first.ID, "", nil) // twice is as good as once
	if kind, _ := post("/v1/payments", payBody(first), `"p"`).problem(); kind != "hold-gone" {
		t.Errorf("paying for what was released: %s", kind)
	}
	r.until("bob gets the unit, under the key that was told sold out", func() bool {
		return post("/v1/sales/drop/holds", `{"buyer":"bob"}`, `"b"`).status == 201
	})
	if kind, _ := post("/v1/sales/drop/holds", `{"buyer":"eve"}`, `"b"`).problem(); kind != "key-reused" {
		t.Errorf("same key, other body: %s", kind)
	}
	r.sale("two", 2)
	second := r.hold("two", "ada")
	if kind, _ := post("/v1/sales/two/holds", `{"buyer":"ada"}`, `"again"`).problem(); kind != "limit" {
		t.Errorf("beyond the limit: %s", kind)
	}
	r.pay(second)
	if kind, _ := post("/v1/payments", payBody(second), `"twice"`).problem(); kind != "hold-paid" {
		t.Errorf("paying twice: %s", kind)
	}
	if kind, _ := r.do("DELETE", "/v1/sales/drop/holds/"+second.ID, "").problem(); kind != "not-found" {
		t.Errorf("releasing a hold of another sale: %s", kind)
	}
}

func TestRepeatsAreTheSameBytes(t *testing.T) {
	r := newRig(t)
	r.sale("drop", 5)
	var hold flashsale.Hold
	first := r.want(201, "POST", "/v1/sales/drop/holds", `{"buyer":"ada"}`, &hold, "Idempotency-Key", `"h"`)
	again := r.want(201, "POST", "/v1/sales/drop/holds", `{ "buyer": "ada" }`, nil, "Idempotency-Key", "h")
	if !bytes.Equal(first.body, again.body) || again.header.Get("Idempotency-Replayed") != "true" || first.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("hold: %s, then %s", first, again)
	}
	first = r.want(202, "POST", "/v1/payments", payBody(hold), nil, "Idempotency-Key", `"h"`) // another path, another scope
	r.until("no longer pending", func() bool {
		var p payment.Payment
		r.want(200, "GET", first.header.Get("Location"), "", &p)
		return p.State == payment.Captured
	})
	again = r.want(202, "POST", "/v1/payments", payBody(hold), nil, "Idempotency-Key", `"h"`)
	if !bytes.Equal(first.body, again.body) || again.header.Get("Location") != first.header.Get("Location") {
		t.Errorf("payment: %s, then %s", first, again)
	}
}

func TestBadInputWritesNothing(t *testing.T) {
	r := newRig(t)
	r.sale("drop", 5)
	hold := r.hold("drop", "ada")
	before := r.rows()
	const key = "Idempotency-Key"
	big := strings.Repeat("x", 20<<10)
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		kind, field              string
	}{
		{"no key", "POST", "/v1/sales/drop/holds", `{"buyer":"b"}`, nil, 400, "malformed", "header.Idempotency-Key"},
		{"open string", "POST", "/v1/sales/drop/holds", `{"buyer":"b"}`, []string{key, `"abc`}, 400, "malformed", "header.Idempotency-Key"},
		{"long key", "POST", "/v1/sales/drop/holds", `{"buyer":"b"}`, []string{key, strings.Repeat("k", 256)}, 400, "malformed", "header.Idempotency-Key"},
		{"no body", "POST", "/v1/sales/drop/holds", ``, []string{key, "k"}, 400, "malformed", ""},
		{"no JSON", "POST", "/v1/sales/drop/holds", `{"buyer":`, []string{key, "k"}, 400, "malformed", "body"},
		{"big body", "POST", "/v1/sales/drop/holds", `{"buyer":"` + big + `"}`, []string{key, "k"}, 413, "too-large", ""},
		{"wrong type", "POST", "/v1/sales/drop/holds", `{"buyer":7}`, []string{key, "k"}, 422, "invalid", "body.buyer"},
		{"unknown field", "POST", "/v1/sales/drop/holds", `{"buyer":"b","admin":true}`, []string{key, "k"}, 422, "invalid", "body.admin"},
		{"missing field", "POST", "/v1/sales/drop/holds", `{}`, []string{key, "k"}, 422, "invalid", "body"},
		{"long buyer", "POST", "/v1/sales/drop/holds", `{"buyer":"` + strings.Repeat("b", 129) + `"}`, []string{key, "k"}, 422, "invalid", "body.buyer"},
		{"unprintable buyer", "POST", "/v1/sales/drop/holds", `{"buyer":"a\u0000b"}`, []string{key, "k"}, 422, "invalid", "body.buyer"},
		{"unknown sale", "POST", "/v1/sales/none/holds", `{"buyer":"b"}`, []string{key, "k"}, 404, "not-found", ""},
		{"unknown query", "POST", "/v1/sales/drop/holds?x=1", `{"buyer":"b"}`, []string{key, "k"}, 422, "invalid", "query.x"},
		{"negative amount", "POST", "/v1/payments", `{"hold":"h","buyer":"b","amount":-1,"currency":"EUR"}`, []string{key, "k"}, 422, "invalid", "body.amount"},
		{"huge amount", "POST", "/v1/payments", `{"hold":"h","buyer":"b","amount":1e40,"currency":"EUR"}`, []string{key, "k"}, 422, "invalid", "body.amount"},
		{"half a cent", "POST", "/v1/payments", `{"hold":"h","buyer":"b","amount":1.5,"currency":"EUR"}`, []string{key, "k"}, 422, "invalid", "body.amount"},
		{"unknown currency", "POST", "/v1/payments", `{"hold":"h","buyer":"b","amount":1,"currency":"EUX"}`, []string{key, "k"}, 422, "invalid", "body.currency"},
		{"unknown hold", "POST", "/v1/payments", `{"hold":"h","buyer":"b","amount":1,"currency":"EUR"}`, []string{key, "k"}, 422, "invalid", "body.hold"},
		{"foreign hold", "POST", "/v1/payments", `{"hold":"` + hold.ID + `","buyer":"eve","amount":4200,"currency":"EUR"}`, []string{key, "k"}, 422, "invalid", "body.buyer"},
		{"wrong price", "POST", "/v1/payments", `{"hold":"` + hold.ID + `","buyer":"ada","amount":1,"currency":"EUR"}`, []string{key, "k"}, 422, "amount", ""},
		{"other currency", "POST", "/v1/payments", `{"hold":"` + hold.ID + `","buyer":"ada","amount":4200,"currency":"USD"}`, []string{key, "k"}, 422, "amount", ""},
		{"negative stock", "POST", "/v1/sales", `{"name":"n","stock":-1,"price":1,"currency":"EUR"}`, nil, 422, "invalid", "body.stock"},
		{"bad id", "POST", "/v1/sales", `{"id":"a}b","name":"n","stock":1,"price":1,"currency":"EUR"}`, nil, 422, "invalid", "body.id"},
		{"limit above stock", "POST", "/v1/sales", `{"name":"n","stock":1,"price":1,"currency":"EUR","per_buyer":2}`, nil, 422, "invalid", "body.per_buyer"},
		{"other terms", "POST", "/v1/sales", `{"id":"drop","name":"n","stock":1,"price":1,"currency":"EUR"}`, nil, 409, "exists", ""},
		{"form", "POST", "/v1/sales", `name=n`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "media-type", ""},
		{"unknown hold", "DELETE", "/v1/sales/drop/holds/none", ``, nil, 404, "not-found", ""},
		{"unknown payment", "GET", "/v1/payments/none", ``, nil, 404, "not-found", ""},
		{"unknown order", "GET", "/v1/orders/none", ``, nil, 404, "not-found", ""},
		{"unknown path", "GET", "/v1/nothing", ``, nil, 404, "not-found", ""},
		{"unknown method", "PUT", "/v1/sales", ``, nil, 405, "method-not-allowed", ""},
		{"malformed cursor", "GET", "/v1/sales/drop/events", ``, []string{"Last-Event-ID", "x"}, 400, "malformed", ""},
		{"events of none", "GET", "/v1/sales/none/events", ``, nil, 404, "not-found", ""},
	} {
		a := r.do(c.method, c.path, c.body, c.header...)
		kind, fields := a.problem()
		if a.status != c.status || kind != c.kind || !strings.Contains(" "+fields+" ", " "+c.field+" ") && c.field != "" {
			t.Errorf("%s: want %d %s %s, got %s", c.name, c.status, c.kind, c.field, a)
		}
		if len(a.body) > 2000 {
			t.Errorf("%s: a problem of %d bytes", c.name, len(a.body))
		}
	}
	if after := r.rows(); after != before {
		t.Errorf("%d rows were written", after-before)
	}
}

func TestKeysKeepCallersApart(t *testing.T) {
	ada, k1, err := server.NewKey("ada")
	if err != nil {
		t.Fatal(err)
	}
	bob, k2, err := server.NewKey("bob")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *server.Config) { c.Keys = []server.Key{k1, k2} })
	for _, header := range []string{"", "Bearer ", "Bearer x", "Basic " + ada, "Bearer " + ada + "x"} {
		a := r.do("GET", "/v1/sales", "", "Authorization", header)
		if kind, _ := a.problem(); a.status != 401 || kind != "unauthorized" || a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%q: %s", header, a)
		}
		if a := r.do("GET", "/v1/sales/x/events", "", "Authorization", header); a.status != 401 {
			t.Errorf("events with %q: %s", header, a)
		}
	}
	r.key = ada
	r.sale("drop", 2)
	var one, two flashsale.Hold
	r.want(201, "POST", "/v1/sales/drop/holds", `{"buyer":"x"}`, &one, "Idempotency-Key", "same")
	r.key = bob
	r.want(201, "POST", "/v1/sales/drop/holds", `{"buyer":"y"}`, &two, "Idempotency-Key", "same")
	if one.ID == two.ID {
		t.Error("two callers share a key's scope")
	}
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/openapi.json", "/"} {
		if a := r.do("GET", path, "", "Authorization", ""); a.status != 200 {
			t.Errorf("%s: %s", path, a)
		}
	}
}

// Without keys a page of another origin, or one that has rebound its name, gets nothing.
func TestOnlyThisMachineWithoutKeys(t *testing.T) {
	r := newRig(t)
	req := r.request("GET", "/v1/sales", "")
	req.Host = "shop.example"
	if kind, _ := r.send(req).problem(); kind != "host" {
		t.Errorf("foreign host: %s", kind)
	}
	for origin, status := range map[string]int{r.web.URL: 200, "https://evil.example": 403, "null": 403} {
		if a := r.do("GET", "/v1/sales", "", "Origin", origin); a.status != status {
			t.Errorf("origin %s: %s", origin, a)
		}
	}
	if _, err := server.Listen("0.0.0.0:0", nil); err == nil {
		t.Error("listens to everybody without keys")
	}
	for _, address := range []string{"127.0.0.1:0", "localhost:0"} {
		l, err := server.Listen(address, nil)
		if err != nil {
			t.Error(err)
			continue
		}
		_ = l.Close()
	}
}

func TestOpenAPI(t *testing.T) {
	r := newRig(t)
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Responses   map[string]struct{ Content map[string]any }
		}
	}
	r.want(200, "GET", "/openapi.json", "", &doc)
	var got []string
	for path, item := range doc.Paths {
		for method, op := range item {
			got = append(got, fmt.Sprintf("%s %s", strings.ToUpper(method), path))
			if op.OperationID == "create-hold" && op.Responses["201"].Content["application/json"] == nil {
				t.Error("the hold's schema is missing")
			}
		}
	}
	if doc.OpenAPI != "3.1.0" || len(got) != 23 {
		t.Errorf("OpenAPI %s with %d operations: %v", doc.OpenAPI, len(got), got)
	}
}
