package ratelimit_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/store"
)

// answer is what a client sees.
type answer struct {
	status int
	header http.Header
	body   struct {
		Type     string
		Status   int
		Violated []string `json:"violated-policies"`
	}
}

func ask(t *testing.T, h http.Handler) (a answer) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	a.status, a.header = w.Code, w.Result().Header
	if w.Header().Get("Content-Type") == "application/problem+json" {
		if err := json.Unmarshal(w.Body.Bytes(), &a.body); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// param reads one parameter of an item of a structured field.
func param(t *testing.T, a answer, field, item, name string) any {
	t.Helper()
	list, err := httpsfv.UnmarshalList(a.header.Values(field))
	if err != nil {
		t.Fatalf("%s %q: %v", field, a.header.Values(field), err)
	}
	for _, m := range list {
		if it, ok := m.(httpsfv.Item); ok && it.Value == item {
			v, _ := it.Params.Get(name)
			return v
		}
	}
	return nil
}

func fixed(reqs ...ratelimit.Request) func(*http.Request) []ratelimit.Request {
	return func(*http.Request) []ratelimit.Request { return reqs }
}

var okay = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

func TestHTTP(t *testing.T) {
	day := 24 * time.Hour
	l := limiter(t, newWorld(t).store, patient,
		ratelimit.Rule{Name: "burst", Algorithm: ratelimit.FixedWindow, Quota: ratelimit.Quota{Limit: 100, Window: time.Minute}},
		ratelimit.Rule{Name: "daily", Quota: ratelimit.Quota{Limit: 1000, Window: day, Burst: 2}},
		ratelimit.Rule{Name: "größte", Shadow: true, Quota: ratelimit.Quota{Limit: 1, Window: day}},
		ratelimit.Rule{Name: "yes", Unlimited: true}, ratelimit.Rule{Name: "no", Blocked: true},
		ratelimit.Rule{Name: "größe", Quota: ratelimit.Quota{Limit: 1, Window: 1500 * time.Millisecond}},
	)
	h := l.HTTP(fixed(req("burst", "k", 1), req("daily", "k", 1), req("größte", "k", 1), req("yes", "", 1)), okay)
	a := ask(t, h)
	if a.status != http.StatusNoContent {
		t.Fatalf("%+v", a)
	}
	if got, want := a.header.Get("RateLimit-Policy"), `"burst";q=100;w=60, "daily";q=1000;w=86400;holdfast-burst=2`; got != want {
		t.Errorf("RateLimit-Policy: %s, not %s", got, want)
	}
	if got, want := a.header.Get("RateLimit"), `"burst";r=99;t=60, "daily";r=1;t=87`; got != want {
		t.Errorf("RateLimit: %s, not %s", got, want)
	}
	ask(t, h)
	a = ask(t, h)
	if a.status != 429 || a.body.Status != 429 || a.body.Type != "https://iana.org/assignments/http-problem-types#quota-exceeded" || !slices.Equal(a.body.Violated, []string{"daily"}) {
		t.Errorf("%+v", a)
	}
	after, err := strconv.ParseInt(a.header.Get("Retry-After"), 10, 64)
	if err != nil || after < 86 || after > 87 || param(t, a, "RateLimit", "daily", "r") != int64(0) {
		t.Errorf("Retry-After %q, %v", a.header.Get("Retry-After"), a.header)
	}
	if reset, ok := param(t, a, "RateLimit", "daily", "t").(int64); !ok || after < reset {
		t.Errorf("Retry-After %d is before t %d", after, reset)
	}
	a = ask(t, l.HTTP(fixed(req("größe", "k", 1)), okay)) // no name of ASCII, no window of whole seconds
	if got := a.header.Get("RateLimit-Policy"); got != `"gr??e";q=1` {
		t.Errorf("%s", got)
	}
	if a = ask(t, l.HTTP(fixed(req("no", "", 1)), okay)); a.status != 429 || !slices.Equal(a.body.Violated, []string{"no"}) || a.header.Get("Retry-After") != "" { // there is no time at which it would come in
		t.Errorf("%+v", a)
	}
	if a = ask(t, l.HTTP(fixed(), okay)); a.status != http.StatusNoContent || a.header.Get("RateLimit") != "" {
		t.Errorf("%+v", a)
	}
	if a = ask(t, l.HTTP(fixed(req("unknown", "", 1)), okay)); a.status != 500 || a.body.Type != "about:blank" {
		t.Errorf("%+v", a)
	}
}

func TestHTTPWithoutStore(t *testing.T) {
	l := limiter(t, nil, patient, policies(16)...)
	for rule, want := range map[string]int{"open": 204, "closed": 503, "share": 204} {
		a := ask(t, l.HTTP(fixed(req(rule, "k", 1)), okay))
		if a.status != want {
			t.Errorf("%s: %+v", rule, a)
		}
		if want == 503 && (a.body.Type != "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity" || a.header.Get("Retry-After") == "" || !slices.Equal(a.body.Violated, []string{rule})) {
			t.Errorf("%s: %+v", rule, a)
		}
	}
	if a := ask(t, l.HTTP(fixed(req("share", "k", 1)), okay)); a.status != 503 { // its share of 16 is one
		t.Errorf("%+v", a)
	}
}

// A handler holds its slot for longer than the lease, and gives it back when it ends, however it ends.
func TestHTTPHoldsSlots(t *testing.T) {
	s, err := openMem()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := limiter(t, s, patient, ratelimit.Rule{Name: "slots", Algorithm: ratelimit.Concurrency, Quota: ratelimit.Quota{Limit: 1, Lease: 2 * time.Second}})
	entered, leave := make(chan struct{}), make(chan struct{})
	h := l.HTTP(fixed(req("slots", "", 1)), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-leave
		panic(http.ErrAbortHandler)
	}))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() { _ = recover() }()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}()
	<-entered
	for end := time.Now().Add(2600 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) { // longer than a lease
		if a := ask(t, h); a.status != 429 || param(t, a, "RateLimit-Policy", "slots", "qu") != "concurrent-requests" {
			t.Fatalf("a second one came in: %+v", a)
		}
	}
	leave <- struct{}{}
	<-ended
	if n := left(t, l, "slots", ""); n != 1 {
		t.Errorf("%d left", n)
	}
}

func openMem() (*store.Store, error) {
	return store.Open(context.Background(), "mem:", store.Options{})
}

func TestHTTPTakesTurns(t *testing.T) {
	s, err := openMem()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := limiter(t, s, patient, ratelimit.Rule{Name: "shape", Algorithm: ratelimit.LeakyBucket, Quota: ratelimit.Quota{Limit: 1, Window: 100 * time.Millisecond, Burst: 100}})
	h := l.HTTP(fixed(req("shape", "", 1)), okay)
	began := time.Now()
	for range 3 {
		if a := ask(t, h); a.status != 204 {
			t.Fatalf("%+v", a)
		}
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("three turns of 100 ms took %s", took)
	}
	allow(t, l, req("shape", "", 50))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	w := httptest.NewRecorder()
	began = time.Now()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("a client that has left was waited for: %s", took)
	}
}
