package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/internal/idem"
	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/payment/paysim"
	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(runner{m}) }

// runner stops the shared database server before leaks are looked for.
type runner struct{ m *testing.M }

func (r runner) Run() int { return sqldbtest.Run(r.m.Run) }

// rig is a server with all that it stands on, and a client for it.
type rig struct {
	testing.TB
	store  *store.Store
	db     *sqldb.DB
	locks  *lock.Locker
	server *server.Server
	web    *httptest.Server
	key    string // API key
	count  int
}

func newRig(t testing.TB, change ...func(*server.Config)) *rig {
	t.Helper()
	return rigOn(t, "mem:", sqldbtest.SQLite(t), change...)
}

// rigOn makes a server on engines of the test's choice.
func rigOn(t testing.TB, storeURL, dbURL string, change ...func(*server.Config)) *rig {
	t.Helper()
	r := &rig{TB: t}
	var err error
	decisions := server.NewDecisions()
	if r.store, err = store.Open(t.Context(), storeURL, store.Options{Timeout: time.Second, Observe: decisions.Observe}); err != nil {
		t.Fatal(err)
	}
	r.closing("store", r.store.Close)
	if r.db, err = sqldb.Open(t.Context(), dbURL, sqldb.Options{Timeout: 2 * time.Second}); err != nil {
		t.Fatal(err)
	}
	r.closing("database", r.db.Close)
	if err := r.db.Migrate(t.Context(), sqldb.Core(), idem.Migrations(), ledger.Migrations(), payment.Migrations(), flashsale.Migrations()); err != nil {
		t.Fatal(err)
	}
	cfg := server.Config{Store: r.store, DB: r.db, Version: "test", Decisions: decisions, EnvoyCalls: server.NewEnvoyCalls()}
	if cfg.Sales, err = flashsale.New(r.store, r.db, flashsale.Options{}); err != nil {
		t.Fatal(err)
	}
	r.closing("sales", cfg.Sales.Close)
	if err := cfg.Sales.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if cfg.Payments, err = payment.New(r.db, provider(t), cfg.Sales, payment.Options{}); err != nil {
		t.Fatal(err)
	}
	r.closing("payments", func() error { return cfg.Payments.Close(context.Background()) })
	cfg.Payments.Start()
	if cfg.Locks, err = lock.New(r.store, lock.Options{}); err != nil {
		t.Fatal(err)
	}
	r.locks = cfg.Locks
	r.closing("locks", func() error { return r.locks.Close(context.Background()) })
	for _, fn := range change {
		fn(&cfg)
	}
	if r.server, err = server.New(cfg); err != nil {
		t.Fatal(err)
	}
	r.closing("server", r.server.Close)
	r.web = httptest.NewServer(r.server.Handler())
	r.Cleanup(func() {
		_ = r.server.Close() // ends the streams
		r.web.Close()
	})
	return r
}

func (r *rig) closing(what string, fn func() error) {
	r.Cleanup(func() {
		if err := fn(); err != nil {
			r.Errorf("closing the %s: %v", what, err)
		}
	})
}

// provider is a simulated provider without faults.
func provider(t testing.TB) *paysim.Client {
	t.Helper()
	sim, err := paysim.New(paysim.Options{Log: filepath.Join(t.TempDir(), "log.jsonl")})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(sim.Handler())
	client, err := paysim.NewClient(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		web.Close()
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

// kind is the problem's type without its prefix, fields the locations that it names.
func (a answer) problem() (kind string, fields string) {
	var p struct {
		Type   string
		Status int
		Errors []struct{ Location string }
	}
	if a.header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(a.body, &p) != nil || p.Status != a.status {
		return "no problem: " + a.String(), ""
	}
	for _, e := range p.Errors {
		fields += e.Location + " "
	}
	return strings.TrimPrefix(p.Type, "urn:holdfast:problem:"), strings.TrimSpace(fields)
}

func (r *rig) request(method, path, body string, header ...string) *http.Request {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), method, r.web.URL+path, bytes.NewBufferString(body))
	if err != nil {
		r.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.key != "" {
		req.Header.Set("Authorization", "Bearer "+r.key)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

func (r *rig) do(method, path, body string, header ...string) answer {
	r.Helper()
	return r.send(r.request(method, path, body, header...))
}

func (r *rig) send(req *http.Request) answer {
	r.Helper()
	resp, err := r.web.Client().Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, text}
}

// want sends a request that has to succeed, and reads the answer into into.
func (r *rig) want(status int, method, path, body string, into any, header ...string) answer {
	r.Helper()
	a := r.do(method, path, body, header...)
	if a.status != status {
		r.Fatalf("%s %s: want %d, got %s", method, path, status, a)
	}
	if into != nil {
		if err := json.Unmarshal(a.body, into); err != nil {
			r.Fatal(err)
		}
	}
	return a
}

func (r *rig) idem() string {
	r.count++
	return fmt.Sprintf(`"key-%d"`, r.count)
}

func (r *rig) sale(id string, stock int) {
	r.Helper()
	r.want(201, "POST", "/v1/sales", fmt.Sprintf(`{"id":%q,"name":"Drop","stock":%d,"price":4200,"currency":"EUR"}`, id, stock), nil)
}

func (r *rig) hold(sale, buyer string) (h flashsale.Hold) {
	r.Helper()
	r.want(201, "POST", "/v1/sales/"+sale+"/holds", fmt.Sprintf(`{"buyer":%q}`, buyer), &h, "Idempotency-Key", r.idem())
	return h
}

func (r *rig) pay(h flashsale.Hold) (p payment.Payment, location string) {
	r.Helper()
	a := r.want(202, "POST", "/v1/payments", payBody(h), &p, "Idempotency-Key", r.idem())
	return p, a.header.Get("Location")
}

func payBody(h flashsale.Hold) string {
	return fmt.Sprintf(`{"hold":%q,"buyer":%q,"amount":%d,"currency":%q}`, h.ID, h.Buyer, h.Price, h.Currency)
}

func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("not within 20 s: %s", what)
		}
	}
}

// rows counts all rows that a request could have written.
func (r *rig) rows() (n int64) {
	r.Helper()
	err := r.db.Read(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		return tx.Row(ctx, `SELECT (SELECT count(*) FROM sales) + (SELECT count(*) FROM holds) + (SELECT count(*) FROM sale_buyers)
			+ (SELECT count(*) FROM payments) + (SELECT count(*) FROM orders) + (SELECT count(*) FROM outbox)
			+ (SELECT count(*) FROM idempotency_keys) + (SELECT count(*) FROM ledger_transfers)
			+ (SELECT count(*) FROM ledger_entries) + (SELECT coalesce(sum(held + sold), 0) FROM sales)`).Scan(&n)
	})
	if err != nil {
		r.Fatal(err)
	}
	return n
}
