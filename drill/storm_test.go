package drill

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestDeckDealsItsSharesAndTheSeedRepeatsThem(t *testing.T) {
	deal := func(seed uint64) (cards []int) {
		d := newDeck(seed, 1, share[int]{1, 12}, share[int]{2, 5}, share[int]{3, 3})
		for range 40 {
			cards = append(cards, d.deal())
		}
		return cards
	}
	first := deal(7)
	if !slices.Equal(first, deal(7)) || slices.Equal(first, deal(8)) {
		t.Error("the seed does not say what is dealt")
	}
	for _, half := range [][]int{first[:20], first[20:]} { // each deck has all of its cards
		counts := map[int]int{}
		for _, c := range half {
			counts[c]++
		}
		if counts[1] != 12 || counts[2] != 5 || counts[3] != 3 {
			t.Errorf("%v", counts)
		}
	}
}

func TestFaultMoments(t *testing.T) {
	for faults := range 9 {
		for stock := range 300 {
			moments := faultMoments(uint64(stock), faults, stock)
			if len(moments) != faults || !slices.IsSorted(moments) {
				t.Fatalf("%d faults, stock %d: %v", faults, stock, moments)
			}
			for _, m := range moments {
				if m < stock/5 || m > stock*3/2 {
					t.Fatalf("%d faults, stock %d: %v", faults, stock, moments)
				}
			}
		}
	}
	if slices.Equal(faultMoments(1, 4, 1000), faultMoments(2, 4, 1000)) {
		t.Error("the seed does not move them")
	}
}

func TestKeyNotesWhatIsJudged(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	k := &keyed{Kind: kindHold}
	k.note(reply{status: 409, problem: "sold-out", sent: at(0), got: at(10)}) // nothing was given yet
	if _, ok := k.told(); ok || len(k.Answers) > 0 {
		t.Fatalf("%+v", k.Answers)
	}
	k.note(reply{status: 201, body: []byte("a"), sent: at(20), got: at(30)})
	k.note(reply{status: 409, problem: "in-flight", sent: at(25), got: at(40)}) // crossed the success
	k.note(reply{status: 201, body: []byte("a"), sent: at(25), got: at(50)})
	k.note(reply{status: 409, problem: "sold-out", sent: at(90), got: at(99)})
	body, ok := k.told()
	if !ok || body != "a" || len(k.Answers) != 3 {
		t.Fatalf("%q %+v", body, k.Answers)
	}
	if a := k.Answers[1]; a.After >= 0 {
		t.Errorf("the duplicate was sent before the success arrived: %s", a.After)
	}
	if a := k.Answers[2]; a.After != 60*time.Millisecond {
		t.Errorf("after %s", a.After)
	}
}

// fake is a server that answers as the test says.
type fake struct {
	mu    sync.Mutex
	seen  []string // keys
	reply func(n int, w http.ResponseWriter, r *http.Request)
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	f.mu.Lock()
	f.seen = append(f.seen, r.Header.Get("Idempotency-Key"))
	n := len(f.seen)
	f.mu.Unlock()
	f.reply(n, w, r)
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.seen)
}

func refuse(w http.ResponseWriter, status int, kind string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"urn:holdfast:problem:%s","status":%d}`, kind, status)
}

func clientOf(t *testing.T, f *fake) (*client, *keyed) {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	c := newClient(func() string { return server.URL }, "secret", 8, newRecord())
	t.Cleanup(c.close)
	k := &keyed{Kind: kindHold, Path: "/v1/sales/s/holds", Key: "k-1", Body: []byte(`{}`)}
	return c, k
}

func TestDecidedAsksUntilThereIsADecision(t *testing.T) {
	f := &fake{reply: func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 1:
			refuse(w, 503, "busy")
		case 2:
			refuse(w, 409, "in-flight")
		case 3:
			panic(http.ErrAbortHandler) // no answer
		default:
			w.WriteHeader(201)
			fmt.Fprint(w, r.Header.Get("Authorization"))
		}
	}}
	c, k := clientOf(t, f)
	r := c.decided(t.Context(), k)
	if r.err != nil || r.status != 201 || string(r.body) != "Bearer secret" {
		t.Fatalf("%+v", r)
	}
	for _, key := range f.seen {
		if key != `"k-1"` {
			t.Errorf("key %s", key)
		}
	}
	counts := c.record.counts
	if counts["answer 503 busy"] != 1 || counts["answer 409 in-flight"] != 1 || counts["no answer"] != 1 || counts["answer 201 ok"] != 1 || c.record.given() != 1 {
		t.Errorf("%v", counts)
	}
}

func TestDecidedEndsWithItsContext(t *testing.T) {
	f := &fake{reply: func(_ int, w http.ResponseWriter, _ *http.Request) { refuse(w, 503, "busy") }}
	c, k := clientOf(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r := c.decided(ctx, k); r.err == nil {
		t.Errorf("%+v", r)
	}
}

// The request of a cut connection arrives; its answer does not.
func TestCutFirst(t *testing.T) {
	release := make(chan struct{})
	f := &fake{reply: func(n int, w http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			<-release
		}
		w.WriteHeader(201)
	}}
	c, k := clientOf(t, f)
	r := c.cutFirst(t.Context(), k)
	close(release)
	if r.err != nil || r.status != 201 || f.count() != 2 {
		t.Errorf("%+v after %d requests", r, f.count())
	}
	if c.record.counts[didCuts] != 1 || c.record.counts[didRetries] != 1 {
		t.Errorf("%v", c.record.counts)
	}
}

func TestTwiceIsAtTheSameTime(t *testing.T) {
	both := make(chan struct{})
	var running atomic.Int32
	f := &fake{reply: func(_ int, w http.ResponseWriter, _ *http.Request) {
		if running.Add(1) == 2 {
			close(both)
		}
		<-both
		w.WriteHeader(201)
		fmt.Fprint(w, "same")
	}}
	c, k := clientOf(t, f)
	if r := c.twice(t.Context(), k); r.status != 201 {
		t.Errorf("%+v", r)
	}
	if len(k.Answers) != 2 || c.record.given() != 1 {
		t.Errorf("%+v, %d given", k.Answers, c.record.given())
	}
}

// What the transport would send again by itself would not be counted.
func TestNothingIsSentTwiceUnasked(t *testing.T) {
	f := &fake{reply: func(n int, w http.ResponseWriter, _ *http.Request) {
		if n > 1 {
			panic(http.ErrAbortHandler)
		}
	}}
	c, k := clientOf(t, f)
	c.ask(t.Context(), k, false)
	if r := c.ask(t.Context(), k, false); r.err == nil || f.count() != 2 {
		t.Errorf("%+v after %d requests", r, f.count())
	}
}

func TestReuseMustBeRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		reply func(n int, w http.ResponseWriter, r *http.Request)
		noted bool
	}{
		{"refused", func(_ int, w http.ResponseWriter, _ *http.Request) { refuse(w, 422, "key-reused") }, false},
		{"busy, then refused", func(n int, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				refuse(w, 503, "busy")
				return
			}
			refuse(w, 422, "key-reused")
		}, false},
		{"accepted", func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }, true},
		{"refused for the wrong reason", func(_ int, w http.ResponseWriter, _ *http.Request) { refuse(w, 409, "limit") }, true},
	} {
		cl, k := clientOf(t, &fake{reply: c.reply})
		k.note(reply{status: 201, sent: time.Now(), got: time.Now()})
		b := &buyer{run: &run{client: cl, record: cl.record}, name: "ada"}
		b.reuse(t.Context(), k)
		if noted := len(k.Answers) > 1; noted != c.noted || cl.record.counts[didReuse] == 1 == c.noted {
			t.Errorf("%s: noted %t, %v", c.name, noted, cl.record.counts)
		}
	}
}

func TestPercentile(t *testing.T) {
	var all []time.Duration
	for i := range 100 {
		all = append(all, time.Duration(100-i)*time.Millisecond)
	}
	if p50, p99 := percentile(all, 0.5), percentile(all, 0.99); p50 != 51 || p99 != 100 {
		t.Errorf("p50 %v, p99 %v", p50, p99)
	}
	if got := percentile(nil, 0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

// Only units that had to be back long ago, with nobody who moves, end a storm before its time.
func TestOverdue(t *testing.T) {
	held := saleTold{Stock: 40, Held: 1, Sold: 39}
	for _, c := range []struct {
		name    string
		quiet   time.Duration // since anything happened
		then    func(r *run, s *saleTold)
		busy    bool
		overdue bool
	}{
		{name: "held for longer than all may take", quiet: 9 * time.Second, overdue: true},
		{name: "held no longer than its time and what comes behind it", quiet: 7 * time.Second},
		{name: "a buyer is about something", quiet: 9 * time.Second, busy: true},
		{name: "a unit came back", quiet: 9 * time.Second, then: func(_ *run, s *saleTold) { s.Held-- }},
		{name: "a unit came back and was held again", quiet: 9 * time.Second, then: func(r *run, _ *saleTold) { r.record.answered++ }},
		{name: "a payment is open", quiet: 9 * time.Second, then: func(r *run, _ *saleTold) { r.record.accepted("p-1") }},
	} {
		r := &run{plan: plan{hold: 4 * time.Second}, record: newRecord()}
		s := held
		if r.overdue(s, true) {
			t.Errorf("%s: at once", c.name)
		}
		r.still.since = time.Now().Add(-c.quiet)
		if c.then != nil {
			c.then(r, &s)
		}
		if got := r.overdue(s, !c.busy); got != c.overdue {
			t.Errorf("%s: %t", c.name, got)
		}
		if !c.overdue && time.Since(r.still.since) > 8*time.Second {
			t.Errorf("%s: the time before counts on", c.name)
		}
	}
}
