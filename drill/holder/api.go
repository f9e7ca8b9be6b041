package holder

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/lock"
)

// api leases through /v1/locks, as a program in another language does.
type api struct {
	url  string
	key  string
	ttl  time.Duration
	http *http.Client
	wg   sync.WaitGroup
}

// errAnswer is an answer that says no.
type errAnswer struct {
	status int
	kind   string
}

func (e errAnswer) Error() string { return fmt.Sprintf("%d %s", e.status, e.kind) }

const kindLost = "urn:holdfast:problem:lease-lost"

func openAPI(o Options) (locks, error) {
	return &api{url: o.API, key: o.Key, ttl: o.TTL, http: &http.Client{Transport: &http.Transport{}}}, nil
}

func (a *api) close(context.Context) error {
	a.wg.Wait()
	a.http.CloseIdleConnections()
	return nil
}

// given is what the server says of a lease.
type given struct {
	Lease   string `json:"lease"`
	Token   int64  `json:"token"`
	Expires int64  `json:"expires_in_ms"`
}

// acquire asks with one key until it has the name or ctx is done; so an answer that was lost is no lost lease,
// and a server that dies costs at most the place in line.
func (a *api) acquire(ctx context.Context, name string, r lock.Request) (lease, error) {
	key := rand.Text()
	for {
		until, _ := ctx.Deadline()
		sent := time.Now()
		var g given
		wish := map[string]any{"ttl_ms": a.ttl.Milliseconds(), "max_hold_ms": maxHold.Milliseconds(),
			"wait_ms": max(time.Until(until).Milliseconds(), 1), "shared": r.Shared}
		if r.Of > 0 {
			wish["permits"], wish["of"] = r.Permits, r.Of
		}
		err := a.call(ctx, http.MethodPost, name, "", key, wish, &g)
		switch {
		case err == nil:
			l := a.hold(name, g, sent)
			if time.Since(sent) < a.ttl/10 || l.renew() == nil {
				l.start()
				return l, nil
			}
			key = rand.Text() // it had ended while the answer was on its way
		case ctx.Err() != nil:
			return nil, ctx.Err()
		default:
			var no errAnswer
			if errors.As(err, &no) && no.status < 500 && no.kind != "urn:holdfast:problem:lock-held" {
				return nil, err
			}
			pause(ctx, 20*time.Millisecond)
		}
	}
}

// call sends one request. An error that is no errAnswer means that nobody knows.
func (a *api) call(ctx context.Context, method, name, leased, key string, body, out any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	path := a.url + "/v1/locks/" + name + "/leases"
	if leased != "" {
		path += "/" + leased
	}
	req, err := http.NewRequestWithContext(ctx, method, path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.GetBody = nil // it is for this program to ask again
	req.Header.Set("Content-Type", "application/json")
	if a.key != "" {
		req.Header.Set("Authorization", "Bearer "+a.key)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", strconv.Quote(key))
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		var problem struct {
			Type string `json:"type"`
		}
		_ = json.Unmarshal(answer, &problem) // whatever it is, the status counts
		return errAnswer{resp.StatusCode, problem.Type}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// apiLease is a lease that this program renews itself.
type apiLease struct {
	a      *api
	name   string
	given  given
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	until time.Time
}

func (a *api) hold(name string, g given, sent time.Time) *apiLease {
	l := &apiLease{a: a, name: name, given: g}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.confirm(g, sent)
	return l
}

// confirm counts the lease's time from before the request was sent, less what clocks differ by.
func (l *apiLease) confirm(g given, sent time.Time) {
	left := time.Duration(g.Expires) * time.Millisecond
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = sent.Add(left - left/100 - time.Millisecond)
}

func (l *apiLease) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.until)
}

func (l *apiLease) renew() error {
	ctx, cancel := context.WithTimeout(l.ctx, max(l.left(), l.a.ttl/10))
	defer cancel()
	sent := time.Now()
	var g given
	err := l.a.call(ctx, http.MethodPut, l.name, l.given.Lease, "", map[string]any{"ttl_ms": l.a.ttl.Milliseconds()}, &g)
	var no errAnswer
	switch {
	case err == nil:
		l.confirm(g, sent)
	case errors.As(err, &no) && no.kind == kindLost:
		l.cancel(lock.ErrLost)
	}
	return err
}

// start renews until the lease has ended.
func (l *apiLease) start() {
	l.a.wg.Go(func() {
		for l.ctx.Err() == nil {
			if l.left() <= 0 {
				l.cancel(lock.ErrLost)
				return
			}
			pause(l.ctx, min(max(l.left()-l.a.ttl*2/3, l.a.ttl/10), l.left()))
			if l.ctx.Err() == nil && l.left() > 0 {
				_ = l.renew() // its end is looked at above
			}
		}
	})
}

func (l *apiLease) Token() int64             { return l.given.Token }
func (l *apiLease) Owner() string            { return l.given.Lease }
func (l *apiLease) Context() context.Context { return l.ctx }

func (l *apiLease) Release(ctx context.Context) (err error) {
	l.cancel(lock.ErrReleased)
	for range 2 { // safe: the same lease
		err = l.a.call(ctx, http.MethodDelete, l.name, l.given.Lease, "", nil, nil)
		var no errAnswer
		if errors.As(err, &no) && no.kind == kindLost {
			return lock.ErrLost
		}
		if err == nil {
			return nil
		}
	}
	return err
}
