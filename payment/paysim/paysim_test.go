package paysim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/payment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sim is a provider over HTTP, and a client of it.
type sim struct {
	*testing.T
	log    string
	server *Server
	*Client
	stop func()
}

func start(t *testing.T, opts Options) *sim {
	t.Helper()
	if opts.Log == "" {
		opts.Log = filepath.Join(t.TempDir(), "log")
	}
	server, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(server.Handler())
	client, err := NewClient(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := &sim{T: t, log: opts.Log, server: server, Client: client}
	s.stop = sync.OnceFunc(func() {
		client.Close()
		web.Close()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// is calls an operation and wants a status.
func (s *sim) is(op, ref string, want payment.Status) {
	s.Helper()
	got, err := s.call(op, ref)
	if err != nil || got.Status != want {
		s.Errorf("%s %s: %v %v, not %s", op, ref, got, err, want)
	}
}

func (s *sim) call(op, ref string) (payment.Result, error) {
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	switch op {
	case "authorise":
		return s.Authorise(ctx, ref, 500, "EUR", "tok")
	case "capture":
		return s.Capture(ctx, ref)
	case "void":
		return s.Void(ctx, ref)
	case "refund":
		return s.Refund(ctx, ref)
	}
	return s.Lookup(ctx, ref)
}

// lines reads the log as a stranger would.
func (s *sim) lines() (all []Line) {
	s.Helper()
	data, err := os.ReadFile(s.log)
	if err != nil {
		s.Fatal(err)
	}
	for raw := range bytes.Lines(data) {
		var l Line
		if err := json.Unmarshal(raw, &l); err != nil {
			s.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// Every operation in every state: what is on record is the answer, each effect is logged once.
func TestOperations(t *testing.T) {
	const unknown, authorised, captured, voided, refunded = payment.StatusUnknown, payment.StatusAuthorised,
		payment.StatusCaptured, payment.StatusVoided, payment.StatusRefunded
	for _, c := range []struct {
		name  string
		steps []string
		want  []payment.Status
		lines int
	}{
		{"to the end", []string{"authorise", "capture", "refund", "lookup"}, []payment.Status{authorised, captured, refunded, refunded}, 3},
		{"each twice", []string{"authorise", "authorise", "capture", "capture", "refund", "refund"},
			[]payment.Status{authorised, authorised, captured, captured, refunded, refunded}, 3},
		{"voided", []string{"authorise", "void", "void", "capture", "refund"}, []payment.Status{authorised, voided, voided, voided, voided}, 2},
		{"a void that came first is remembered", []string{"void", "authorise", "capture", "lookup"}, []payment.Status{voided, voided, voided, voided}, 1},
		{"captured is not voided", []string{"authorise", "capture", "void", "lookup"}, []payment.Status{authorised, captured, captured, captured}, 2},
		{"nothing to capture", []string{"lookup", "capture", "refund"}, []payment.Status{unknown, unknown, unknown}, 0},
		{"a late repetition", []string{"authorise", "capture", "authorise", "refund", "capture"},
			[]payment.Status{authorised, captured, captured, refunded, refunded}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, Options{})
			for i, op := range c.steps {
				s.is(op, "r", c.want[i])
			}
			if got := s.lines(); len(got) != c.lines {
				t.Errorf("%d lines, not %d: %v", len(got), c.lines, got)
			}
		})
	}
}

func TestAnotherAmount(t *testing.T) {
	s := start(t, Options{})
	s.is("authorise", "r", payment.StatusAuthorised)
	for _, c := range []struct {
		amount   int64
		currency string
	}{{501, "EUR"}, {500, "USD"}} {
		got, err := s.Authorise(t.Context(), "r", c.amount, c.currency, "tok")
		if err != nil || got.Status != payment.StatusRefused {
			t.Errorf("%+v: %v %v", c, got, err)
		}
	}
	s.is("capture", "r", payment.StatusCaptured)
}

// The log outlives the process; a line that was being written is cut, nothing else is.
func TestRestart(t *testing.T) {
	s := start(t, Options{})
	s.is("authorise", "a", payment.StatusAuthorised)
	s.is("capture", "a", payment.StatusCaptured)
	s.is("void", "b", payment.StatusVoided)
	s.stop()
	f, err := os.OpenFile(s.log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(`{"at":"2026-01-01T00:00:00Z","op":"refund","ref":"a","outc`)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	again := start(t, Options{Log: s.log})
	again.is("lookup", "a", payment.StatusCaptured)
	again.is("authorise", "b", payment.StatusVoided)
	again.is("refund", "a", payment.StatusRefunded)
	if got := again.lines(); len(got) != 4 || got[3].Op != "refund" || got[3].Amount != 500 {
		t.Error(got)
	}
}

func TestDamagedLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	good := `{"op":"void","ref":"a","outcome":"voided"}` + "\n"
	for _, bad := range []string{"nonsense\n", "{}\n", "\n", `{"op":"void"}` + "\n"} {
		if err := os.WriteFile(path, []byte(good+bad+good), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Options{Log: path}); !errors.Is(err, errDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("byte %d of %s", len(good), path)) {
			t.Errorf("%q: %v", bad, err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != good+bad+good {
			t.Errorf("%q: the log was touched: %v", bad, err)
		}
	}
}

// Every fault does what its comment says, each as often in a hundred requests as its rate.
func TestFaults(t *testing.T) {
	quick := Options{LateBy: 20 * time.Millisecond, HangBy: 50 * time.Millisecond}
	for _, c := range []struct {
		fault Fault
		fails bool // the call has no answer
		then  payment.Status
		lines int
	}{
		{Late, false, payment.StatusAuthorised, 1},
		{Timeout, true, payment.StatusAuthorised, 1},
		{Cut, true, payment.StatusAuthorised, 1},
		{Duplicate, false, payment.StatusAuthorised, 1},
		{RefuseAuth, false, payment.StatusRefused, 1},
		{RefuseCapture, false, payment.StatusAuthorised, 1},
		{CaptureAtOnce, false, payment.StatusCaptured, 1},
	} {
		t.Run(string(c.fault), func(t *testing.T) {
			opts := quick
			opts.Rates = Rates{c.fault: 100}
			s := start(t, opts)
			began := time.Now()
			got, err := s.call("authorise", "r")
			took := time.Since(began)
			if c.fails != (err != nil) || !c.fails && got.Status != c.then {
				t.Errorf("%v %v", got, err)
			}
			if c.fault == Late && took < opts.LateBy || c.fault == Timeout && took < opts.HangBy {
				t.Errorf("took %s", took)
			}
			s.is("lookup", "r", c.then)
			if c.fault == RefuseCapture {
				s.is("capture", "r", payment.StatusRefused)
				s.is("capture", "r", payment.StatusRefused)
				s.is("void", "r", payment.StatusVoided)
				c.lines++
			}
			s.stop() // lets the second delivery happen
			if got := s.lines(); len(got) != c.lines {
				t.Errorf("%d lines, not %d: %v", len(got), c.lines, got)
			}
		})
	}
}

// A deck of a hundred has each fault as often as its rate says; a seed gives the same order.
func TestDecks(t *testing.T) {
	rates := Standard()
	faults := []Fault{Late, Timeout, Cut, Duplicate}
	first, second, other := newDealer(rates, 7, faults...), newDealer(rates, 7, faults...), newDealer(rates, 8, faults...)
	var a, b, c []Fault
	for range 3 * deckSize {
		a, b, c = append(a, first.deal()), append(b, second.deal()), append(c, other.deal())
	}
	if !slices.Equal(a, b) {
		t.Error("the same seed, another order")
	}
	if slices.Equal(a, c) {
		t.Error("another seed, the same order")
	}
	want, got := map[Fault]int{}, map[Fault]int{}
	for _, f := range faults {
		want[f] = 3 * rates[f]
	}
	first.counts(got)
	if !maps.Equal(got, want) {
		t.Errorf("dealt %v, not %v", got, want)
	}
}

func TestRatesThatMakeNoSense(t *testing.T) {
	for _, r := range []Rates{{"flood": 1}, {Late: -1}, {Late: 60, Cut: 50}} {
		if _, err := New(Options{Log: filepath.Join(t.TempDir(), "log"), Rates: r}); err == nil {
			t.Error(r)
		}
	}
}

// Many at once under every fault: asked until there is an answer, each reference ends as its
// log says, with at most one authorisation and one capture.
func TestManyAtOnce(t *testing.T) {
	s := start(t, Options{Rates: Standard(), Seed: 1, LateBy: 5 * time.Millisecond, HangBy: 10 * time.Millisecond})
	var all sync.WaitGroup
	ends := make([]payment.Status, 200)
	for i := range ends {
		all.Go(func() {
			ref := fmt.Sprintf("r%d", i)
			for _, op := range []string{"authorise", "capture", "lookup"} {
				for {
					if res, err := s.call(op, ref); err == nil {
						ends[i] = res.Status
						break
					}
				}
			}
		})
	}
	all.Wait()
	s.stop()
	effects, last := map[string]int{}, map[string]payment.Status{}
	for _, l := range s.lines() {
		effects[l.Op+" "+l.Ref]++
		last[l.Ref] = l.Outcome
	}
	for what, n := range effects {
		if n > 1 {
			t.Errorf("%s: %d times", what, n)
		}
	}
	for i, end := range ends {
		if ref := fmt.Sprintf("r%d", i); last[ref] != end {
			t.Errorf("%s: the answer was %s, the log says %s", ref, end, last[ref])
		}
	}
}

// What the client cannot understand is an error, and so not known.
func TestAnswersThatMakeNoSense(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
	}{{200, ""}, {200, "{}"}, {200, "[1]"}, {500, `{"status":"captured"}`}, {302, ""}, {404, "no"}, {200, strings.Repeat(" ", maxAnswer) + `{"status":"captured"}`}} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if c.status == 302 {
				w.Header().Set("Location", "/elsewhere")
			}
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		}))
		client, err := NewClient(web.URL)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := client.Capture(t.Context(), "r"); err == nil {
			t.Errorf("%d %.20q: %v", c.status, c.body, got)
		}
		client.Close()
		web.Close()
	}
	for _, bad := range []string{"", "localhost:80", "ftp://h", "http://"} {
		if _, err := NewClient(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}

func TestBadRequests(t *testing.T) {
	s := start(t, Options{})
	for _, body := range []string{
		``, `{`, `[]`, `{}`, `{"ref":""}`, `{"ref":"r"}`, `{"ref":"r","amount":0,"currency":"EUR"}`,
		`{"ref":"r","amount":-1,"currency":"EUR"}`, `{"ref":"r","amount":1,"currency":"XXY"}`,
		`{"ref":"r","amount":1,"currency":"EUR","colour":"red"}`, `{"ref":"r","amount":1,"currency":"EUR"} {}`,
		`{"ref":"r","amount":99999999999999999,"currency":"EUR"}`, `{"ref":"` + strings.Repeat("r", 101) + `","amount":1,"currency":"EUR"}`,
		`{"ref":"r","amount":1,"currency":"EUR","source":"` + strings.Repeat("s", maxLine) + `"}`,
	} {
		resp, err := s.http.Post(s.base+"/v1/authorise", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%.60s: %s", body, resp.Status)
		}
	}
	if got := s.lines(); len(got) != 0 {
		t.Error("written:", got)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"ref":"r","amount":1,"currency":"EUR","source":"tok"}`))
	f.Add([]byte(`{"ref":"r"} x`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decode(bytes.NewReader(body), "authorise")
		if err == nil && (r.Ref == "" || len(r.Ref) > 100 || r.Amount <= 0 || len(r.Currency) != 3) {
			t.Errorf("%q: %+v", body, r)
		}
	})
}

func FuzzParseLog(f *testing.F) {
	f.Add([]byte(`{"op":"void","ref":"a","outcome":"voided"}` + "\n" + `{"op`))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines, whole, err := parseLog(data)
		if err != nil {
			return
		}
		if whole > len(data) || len(lines) != bytes.Count(data[:whole], []byte("\n")) {
			t.Errorf("%q: %d lines in %d bytes", data, len(lines), whole)
		}
	})
}
