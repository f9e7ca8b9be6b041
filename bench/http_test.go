package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/payment"
)

// conn is a client that costs little: it writes a request that is ready, and reads the answer
// no further than it has to. Floors and ours are asked by the same one.
type conn struct {
	net.Conn
	r    *bufio.Reader
	body []byte
}

func dial(t *testing.T, address string) *conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &conn{Conn: c, r: bufio.NewReader(c)}
}

// ask sends a request and returns the status and the body, which is good until the next one.
func (c *conn) ask(request []byte) (status int, body []byte, err error) {
	if _, err := c.Write(request); err != nil {
		return 0, nil, err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil || len(line) < 12 {
		return 0, nil, fmt.Errorf("%q: %w", line, err)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, err
	}
	length := 0
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, nil, err
		}
		if len(line) <= 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, nil, err
			}
		}
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	_, err = io.ReadFull(c.r, c.body)
	return status, c.body, err
}

func post(path, key, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"+
		"Idempotency-Key: \"%s\"\r\nContent-Length: %d\r\n\r\n%s", path, key, len(body), body)
}

const clients = 64

// payers is how many connections pay: what they share is the price of a commit.
const payers = 256

// over asks an address from as many connections as there are clients.
func over(t *testing.T, address string, next func(n int64) (request []byte, fine func(status int) bool)) func(*testing.T, time.Duration) float64 {
	conns := make([]*conn, clients)
	for i := range conns {
		conns[i] = dial(t, address)
	}
	return func(t *testing.T, d time.Duration) float64 {
		return callers(t, clients, d, func(i int, n int64) error {
			request, fine := next(n)
			status, body, err := conns[i].ask(request)
			if err == nil && !fine(status) {
				err = fmt.Errorf("%d %s", status, body)
			}
			return err
		})
	}
}

func is(want int) func(int) bool { return func(status int) bool { return status == want } }

// bare is the floor: net/http and nothing else reads the same bytes and answers the same bytes.
func bare(t *testing.T, status int, answer string) string {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(web.Close)
	return strings.TrimPrefix(web.URL, "http://")
}

var httpGroup = group{
	title: "Sold out, over HTTP", unit: "answers/s",
	note: "64 connections on loopback ask for a unit of a sale that is sold out. The floor is net/http with a " +
		"handler that reads the same request and answers the same bytes; client and servers share the cores.",
	open: func(t *testing.T) (rows []*measure) {
		const floor = "net/http, the same bytes"
		for i, e := range engines(t) {
			s := e.shop(t)
			path := "/v1/sales/" + s.sale(t, 1) + "/holds"
			request := func(n int64) []byte {
				return post(path, fmt.Sprint("k", n), fmt.Sprintf(`{"buyer":"b%d"}`, n))
			}
			c := dial(t, s.address)
			if status, body, err := c.ask(request(-1)); status != 201 {
				t.Fatal(status, string(body), err)
			}
			status, answer, err := c.ask(request(-2))
			if status != 409 {
				t.Fatal(status, string(answer), err)
			}
			next := func(n int64) ([]byte, func(int) bool) { return request(s.n.Add(1)), is(409) }
			if i == 0 {
				rows = append(rows, &measure{name: floor, run: over(t, bare(t, 409, string(answer)), next)})
			}
			rows = append(rows, &measure{name: "sold out, " + e.name, of: floor, run: over(t, s.address, next)})
		}
		return rows
	},
}

var mixedGroup = group{
	title: "99 refusals to 1 hold, over HTTP", unit: "answers/s",
	note: "64 connections; one request in a hundred is for a sale that has units, the others for one that is sold " +
		"out. The floor answers all of them as above.",
	open: func(t *testing.T) (rows []*measure) {
		const floor = "net/http, the same bytes"
		rows = append(rows, &measure{name: floor, run: over(t, bare(t, 409, strings.Repeat("x", 180)), func(n int64) ([]byte, func(int) bool) {
			return post("/v1/sales/x/holds", fmt.Sprint("k", n), fmt.Sprintf(`{"buyer":"b%d"}`, n)), is(409)
		})})
		for _, e := range engines(t) {
			s := e.shop(t)
			out, open := "/v1/sales/"+s.sale(t, 1)+"/holds", "/v1/sales/"+s.sale(t, flashsale.MaxStock)+"/holds"
			if status, body, err := dial(t, s.address).ask(post(out, "first", `{"buyer":"first"}`)); status != 201 {
				t.Fatal(status, string(body), err)
			}
			rows = append(rows, &measure{name: "mixed, " + e.name, of: floor, run: over(t, s.address, func(int64) ([]byte, func(int) bool) {
				n := s.n.Add(1)
				path, fine := out, is(409)
				if n%100 == 0 {
					path, fine = open, is(201)
				}
				return post(path, fmt.Sprint("k", n), fmt.Sprintf(`{"buyer":"b%d"}`, n)), fine
			})})
		}
		return rows
	},
}

var paymentGroup = group{
	title: "Payments", unit: "payments/s",
	note: "Holds are made beforehand. Accepted: answered 202 over HTTP by 256 connections, while what was accepted " +
		"is being settled by the same server. Captured: from the first request until the last is captured, by a provider that answers " +
		"at once (authorised and confirmed with its order, captured: two more transactions each, shared with others).",
	open: func(t *testing.T) (rows []*measure) {
		for _, e := range engines(t) {
			s := e.shop(t)
			rows = append(rows,
				&measure{name: "accepted, " + e.name, run: func(t *testing.T, d time.Duration) float64 { return s.pay(t, d, false) }},
				&measure{name: "captured, " + e.name, run: func(t *testing.T, d time.Duration) float64 { return s.pay(t, d, true) }})
		}
		return rows
	},
}

// holds makes n holds in the process and returns their ids.
func (s *shop) holds(t *testing.T, n int) []string {
	t.Helper()
	sale := s.sale(t, flashsale.MaxStock)
	ids := make([]string, n)
	var all sync.WaitGroup
	places := make(chan struct{}, many)
	for i := range ids {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			who := fmt.Sprint(s.n.Add(1))
			h, err := s.sales.Hold(context.Background(), flashsale.HoldRequest{Key: who, Sale: sale, Buyer: "b" + who})
			if err != nil {
				t.Error(err)
			}
			ids[i] = h.Hold.ID + " b" + who
		})
	}
	all.Wait()
	return ids
}

// pay pays for holds that are made first, and says how many payments a second were accepted, or
// captured. It returns when all are settled.
func (s *shop) pay(t *testing.T, d time.Duration, captured bool) (rate float64) {
	holds := s.holds(t, payers+int(d.Seconds()*6000))
	before := s.payments.Stats().Captured
	conns := make([]*conn, payers)
	for i := range conns {
		conns[i] = dial(t, s.address)
	}
	work := make(chan string, len(holds))
	for _, h := range holds {
		work <- h
	}
	close(work)
	began := time.Now()
	var all sync.WaitGroup
	for _, c := range conns {
		all.Go(func() {
			for h := range work {
				hold, buyer, _ := strings.Cut(h, " ")
				status, body, err := c.ask(post("/v1/payments", hold, fmt.Sprintf(
					`{"hold":"%s","buyer":"%s","amount":100,"currency":"EUR","source":"tok"}`, hold, buyer)))
				if status != 202 {
					t.Error(status, string(body), err)
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	for s.payments.Stats().Captured < before+int64(len(holds)) && time.Since(began) < time.Minute {
		time.Sleep(time.Millisecond)
	}
	if captured {
		took = time.Since(began)
	}
	return float64(len(holds)) / took.Seconds()
}

// instant is a provider that answers at once.
type instant struct{}

func (instant) Authorise(context.Context, string, int64, string, string) (payment.Result, error) {
	return payment.Result{Status: payment.StatusAuthorised}, nil
}
func (instant) Capture(context.Context, string) (payment.Result, error) {
	return payment.Result{Status: payment.StatusCaptured}, nil
}
func (instant) Void(context.Context, string) (payment.Result, error) {
	return payment.Result{Status: payment.StatusVoided}, nil
}
func (instant) Refund(context.Context, string) (payment.Result, error) {
	return payment.Result{Status: payment.StatusRefunded}, nil
}
func (instant) Lookup(context.Context, string) (payment.Result, error) {
	return payment.Result{Status: payment.StatusUnknown}, nil
}
