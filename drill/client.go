package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	requestWithin = 15 * time.Second // longest one request; a server works 10 s on it, and 2 s more on a COMMIT
	maxAnswer     = 1 << 16
	problemPrefix = "urn:holdfast:problem:"
)

var errLate = errors.New("drill: no answer in time")

// client sends the buyers' requests.
type client struct {
	pick     func() string // the address of some server
	secret   string        // API key
	http     *http.Client
	slots    chan struct{} // a place for each request on its way
	inFlight atomic.Int64
	record   *record
}

func newClient(pick func() string, secret string, parallel int, rec *record) *client {
	return &client{
		pick: pick, secret: secret, record: rec, slots: make(chan struct{}, parallel),
		http: &http.Client{Transport: &http.Transport{
			MaxIdleConns: 2 * parallel, MaxIdleConnsPerHost: parallel, DisableCompression: true,
			DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		}},
	}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// reply is one answer, or that there was none.
type reply struct {
	status    int
	problem   string // the problem's type, without its prefix
	again     bool   // it says when to ask again
	late      bool   // no answer in requestWithin
	body      []byte
	err       error // no answer: what became of it is not known
	sent, got time.Time
}

func (r reply) success() bool { return r.err == nil && r.status < 300 }

// undecided says that the same request has to be sent again.
func (r reply) undecided() bool {
	return r.err != nil || r.status == http.StatusServiceUnavailable || r.problem == "in-flight"
}

// once sends one request. With cut the connection is closed as soon as it was written, and a
// moment later at most.
func (c *client) once(ctx context.Context, method, path, key string, body []byte, cut bool) (r reply) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return reply{err: ctx.Err()}
	}
	return c.send(ctx, c.pick(), method, path, key, body, cut)
}

// send is once, to one server, however many requests are on their way.
func (c *client) send(ctx context.Context, server, method, path, key string, body []byte, cut bool) (r reply) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestWithin, errLate)
	defer cancel()
	if cut {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
			time.AfterFunc(rand.N(2*time.Millisecond), cancel)
		}})
	}
	req, err := http.NewRequestWithContext(ctx, method, server+path, bytes.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	req.GetBody = nil // what is sent twice is for the buyer to decide
	req.Header.Set("Authorization", "Bearer "+c.secret)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", strconv.Quote(key))
	}
	c.inFlight.Add(1)
	defer c.inFlight.Add(-1)
	r.sent = time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{err: err, sent: r.sent, got: time.Now(), late: errors.Is(context.Cause(ctx), errLate)}
	}
	defer resp.Body.Close()
	r.body, r.err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	r.status, r.got = resp.StatusCode, time.Now()
	r.again, r.late = resp.Header.Get("Retry-After") != "", r.err != nil && errors.Is(context.Cause(ctx), errLate)
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		r.problem = strings.TrimPrefix(parse[struct{ Type string }](string(r.body)).Type, problemPrefix)
	}
	return r
}

// ask sends a request with a key once and notes the answer.
func (c *client) ask(ctx context.Context, k *keyed, cut bool) reply {
	return c.noted(ctx, k, c.once(ctx, http.MethodPost, k.Path, k.Key, k.Body, cut))
}

// probe asks one server.
func (c *client) probe(ctx context.Context, server string, k *keyed) reply {
	return c.noted(ctx, k, c.send(ctx, server, http.MethodPost, k.Path, k.Key, k.Body, false))
}

func (c *client) noted(ctx context.Context, k *keyed, r reply) reply {
	if ctx.Err() != nil && r.err != nil {
		return r // the storm is over; nobody was let down
	}
	c.record.answer(k, r)
	if r.err == nil {
		before, _ := k.told()
		k.note(r)
		if before == "" && r.success() {
			c.record.gave(k, r.got.Sub(r.sent))
		}
	}
	return r
}

// decided asks until there is a decision. An error of the reply means that ctx ended first.
func (c *client) decided(ctx context.Context, k *keyed) reply {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		r := c.ask(ctx, k, false)
		if !r.undecided() {
			return r
		}
		if !wait(ctx, pause/2+rand.N(pause)) {
			return reply{err: ctx.Err()}
		}
	}
}

// twice sends a request two times at once; both go on until they have a decision.
func (c *client) twice(ctx context.Context, k *keyed) reply {
	c.record.count(didDuplicates)
	other := make(chan reply, 1)
	go func() { other <- c.decided(ctx, k) }()
	mine, theirs := c.decided(ctx, k), <-other
	if mine.success() {
		return mine
	}
	return theirs
}

// cutFirst loses the connection of the first try, and asks again with the same key.
func (c *client) cutFirst(ctx context.Context, k *keyed) reply {
	if r := c.ask(ctx, k, true); r.err == nil {
		if !r.undecided() {
			return r // the answer was faster
		}
	} else if ctx.Err() == nil {
		c.record.count(didCuts)
		c.record.count(didRetries)
	}
	return c.decided(ctx, k)
}

// simple sends a request without a key until it is answered with a decision.
func (c *client) simple(ctx context.Context, method, path string) reply {
	for {
		r := c.once(ctx, method, path, "", nil, false)
		if ctx.Err() == nil || r.err == nil {
			c.record.answer(nil, r)
		}
		if !r.undecided() {
			return r
		}
		if !wait(ctx, 50*time.Millisecond+rand.N(100*time.Millisecond)) {
			return reply{err: ctx.Err()}
		}
	}
}

// get reads what a path shows; ok is false when ctx ended or it is not there.
func get[T any](ctx context.Context, c *client, path string) (v T, ok bool) {
	r := c.simple(ctx, http.MethodGet, path)
	if r.err != nil || r.status != http.StatusOK {
		return v, false
	}
	return v, json.Unmarshal(r.body, &v) == nil
}

// wait pauses; it says whether ctx lives on.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
