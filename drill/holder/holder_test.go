package holder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/lock/guard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// guardedHere serves a table and files until the test ends, and returns their address.
func guardedHere(t *testing.T) (address, dir string) {
	t.Helper()
	dir = t.TempDir()
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- Serve(ctx, GuardedOptions{DB: "sqlite:" + filepath.Join(dir, "db"), Dir: dir, Ready: func(l net.Listener) error {
			ready <- "http://" + l.Addr().String()
			return nil
		}})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case address = <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	return address, dir
}

func events(t *testing.T, file string) (all []Event) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

// A holder writes down each step before it and each answer after it, and ends what it has begun.
func TestHolderKeepsAJournal(t *testing.T) {
	address, dir := guardedHere(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	file := filepath.Join(dir, "journal")
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Store: "mem:", Resource: address, Names: []string{"a", "b"}, TTL: time.Second, Log: file, Seed: 1, Who: 3})
	}()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if data, _ := os.ReadFile(file); bytes.Count(data, []byte(`"released"`)) >= 5 {
			break
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	order := "" // of one operation
	tokens := map[string]int64{}
	for _, e := range events(t, file) {
		switch e.Kind {
		case "ask":
			order = ""
		case "stall", "lost":
			continue
		case "got":
			if e.Token <= tokens[e.Name] || e.Owner == "" {
				t.Errorf("%+v after token %d", e, tokens[e.Name])
			}
			tokens[e.Name] = e.Token
		case "wrote":
			if e.Status != http.StatusOK {
				t.Errorf("%+v", e)
			}
		}
		order += e.Kind + " "
		if !strings.HasPrefix("ask got write wrote write wrote release released ", order) && order != "ask failed " {
			t.Fatalf("steps of one operation: %s", order)
		}
	}
	if len(tokens) == 0 {
		t.Error("it had no lease")
	}
}

// What is guarded takes writes in the order of their tokens, keeps them in that order, and refuses late ones.
func TestGuardedRefusesLateWrites(t *testing.T) {
	address, dir := guardedHere(t)
	r := newResource(address)
	defer r.close()
	for _, to := range []string{"rows", "files"} {
		for i, c := range []struct {
			token int64
			owner string
			want  int
		}{{5, "a", 200}, {5, "a", 200}, {5, "b", 409}, {4, "a", 409}, {6, "b", 200}, {0, "a", 400}} {
			if got, err := r.write(to, "n", c.token, c.owner, fmt.Sprint(i)); err != nil || got != c.want {
				t.Errorf("%s: write %d: %d, %v", to, i, got, err)
			}
		}
	}
	lines, err := os.ReadFile(filepath.Join(dir, "n.log"))
	if want := "5 a 0\n5 a 1\n6 b 4\n"; err != nil || string(lines) != want {
		t.Errorf("%q, %v", lines, err)
	}
	resp, err := http.Post(address+"/rows/n", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPreconditionRequired {
		t.Errorf("without %s: %d", guard.Header, resp.StatusCode)
	}
}

// fakeAPI answers as it is told, and notes what it was asked.
type fakeAPI struct {
	mu      sync.Mutex
	answers map[string][]string // by method: statuses with bodies, the last one again and again
	keys    []string
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	if key := r.Header.Get("Idempotency-Key"); key != "" {
		f.keys = append(f.keys, key)
	}
	all := f.answers[r.Method]
	if len(all) > 1 {
		f.answers[r.Method] = all[1:]
	}
	var status int
	body := ""
	_, _ = fmt.Sscanf(all[0], "%d", &status)
	_, body, _ = strings.Cut(all[0], " ")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func apiWith(t *testing.T, ttl time.Duration, answers map[string][]string) (*fakeAPI, locks) {
	t.Helper()
	f := &fakeAPI{answers: answers}
	web := httptest.NewServer(f)
	l, err := openAPI(Options{API: web.URL, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(context.Background()); err != nil {
			t.Error(err)
		}
		web.Close()
	})
	return f, l
}

const (
	leased   = `201 {"lease":"7-x","token":7,"expires_in_ms":300}`
	leaseEnd = `409 {"type":"urn:holdfast:problem:lease-lost"}`
)

func TestAPIAsksAgainWithItsKey(t *testing.T) {
	f, l := apiWith(t, 300*time.Millisecond, map[string][]string{"POST": {"503 {}", `409 {"type":"urn:holdfast:problem:lock-held"}`, leased},
		"PUT": {`200 {"lease":"7-x","token":7,"expires_in_ms":300}`}, "DELETE": {"503 {}", "204"}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, err := l.acquire(ctx, "n", lock.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Token() != 7 || got.Owner() != "7-x" || got.Context().Err() != nil {
		t.Errorf("%+v", got)
	}
	if err := got.Release(ctx); err != nil || !errors.Is(context.Cause(got.Context()), lock.ErrReleased) {
		t.Errorf("%v, %v", err, context.Cause(got.Context()))
	}
	if len(f.keys) != 3 || f.keys[0] != f.keys[1] || f.keys[1] != f.keys[2] {
		t.Errorf("keys: %q", f.keys)
	}
}

func TestAPIKnowsItsLeasesEnd(t *testing.T) {
	for name, put := range map[string]string{"it is told": leaseEnd, "it hears nothing": "503 {}"} {
		_, l := apiWith(t, 300*time.Millisecond, map[string][]string{"POST": {leased}, "PUT": {put}, "DELETE": {leaseEnd}})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		got, err := l.acquire(ctx, "n", lock.Request{})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-got.Context().Done():
		case <-ctx.Done():
			t.Errorf("%s: it believes in its lease", name)
		}
		if err := got.Release(ctx); !errors.Is(err, lock.ErrLost) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPIHasItsOwnDeadline(t *testing.T) {
	_, l := apiWith(t, time.Second, map[string][]string{"POST": {`409 {"type":"urn:holdfast:problem:lock-held"}`}})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := l.acquire(ctx, "n", lock.Request{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	_, l = apiWith(t, time.Second, map[string][]string{"POST": {`422 {"type":"urn:holdfast:problem:invalid"}`}})
	if _, err := l.acquire(t.Context(), "n", lock.Request{}); err == nil || !strings.Contains(err.Error(), "422") {
		t.Errorf("%v", err)
	}
}
