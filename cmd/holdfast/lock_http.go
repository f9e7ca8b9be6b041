package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/server"
)

// locksOfServer are those of a server.
type locksOfServer struct {
	base, key string
	log       *slog.Logger
	web       *http.Client
	oneWait   time.Duration // how long one request stands in line; the next one has its place
}

func newLocksOfServer(base, key string, log *slog.Logger) *locksOfServer {
	return &locksOfServer{base, key, log, &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}, 20 * time.Second}
}

func (l *locksOfServer) close() error {
	l.web.CloseIdleConnections()
	return nil
}

// problem is an answer that is none of the wanted.
type problem struct {
	status int
	after  time.Duration // when it may be asked again
	Type   string
	Detail string
}

func (p *problem) Error() string {
	if p.Detail == "" {
		p.Detail = http.StatusText(p.status)
	}
	return fmt.Sprintf("the server says %d: %.500s", p.status, p.Detail)
}

// Is tells which of package lock's errors it is.
func (p *problem) Is(target error) bool {
	kind := map[error]string{lock.ErrHeld: "lock-held", lock.ErrLost: "lease-lost", lock.ErrMode: "lock-mode", lock.ErrTooMany: "lock-line-full"}[target]
	return kind != "" && p.Type == "urn:holdfast:problem:"+kind
}

// passing says whether a repeat may succeed.
func passing(err error) bool {
	var p *problem
	return !errors.As(err, &p) || p.status == http.StatusServiceUnavailable
}

// do asks, and reads the answer into into.
func (l *locksOfServer) do(ctx context.Context, method, path, idem string, body, into any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, l.base+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	for name, value := range map[string]string{"Content-Type": "application/json", "Idempotency-Key": idem, "Authorization": "Bearer " + l.key} {
		if value != "" && value != "Bearer " {
			req.Header.Set(name, value)
		}
	}
	resp, err := l.web.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		p := &problem{status: resp.StatusCode}
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // none is at once
		p.after = time.Duration(seconds) * time.Second
		_ = json.Unmarshal(answer, p) // something between us may have answered
		return p
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

func (l *locksOfServer) list(ctx context.Context, limit int) (list server.LockList, err error) {
	return list, l.do(ctx, http.MethodGet, "/v1/locks?limit="+strconv.Itoa(limit), "", nil, &list)
}

func lockPath(name string) string {
	if name == "." || name == ".." { // in a path they mean something else
		return "/v1/locks/" + strings.ReplaceAll(name, ".", "%2E")
	}
	return "/v1/locks/" + url.PathEscape(name)
}

func (l *locksOfServer) look(ctx context.Context, name string) (state server.LockState, err error) {
	return state, l.do(ctx, http.MethodGet, lockPath(name), "", nil, &state)
}

func (l *locksOfServer) breakUp(ctx context.Context, name string, token int64, reason string) ([]int64, error) {
	body := map[string]any{"reason": reason}
	if token != 0 {
		body["token"] = token
	}
	var b server.Broken
	return b.Tokens, l.do(ctx, http.MethodPost, lockPath(name)+"/breaks", "", body, &b)
}

// patience is how long a server that does not answer is waited for, while standing in line.
const patience = 30 * time.Second

func (l *locksOfServer) acquire(ctx context.Context, name string, w want) (holder, error) {
	key := strconv.Quote(rand.Text()) // one wait, in as many requests as it takes
	began, answered, told := time.Now(), time.Now(), false
	for first := true; ; first = false {
		left := l.oneWait
		if w.wait >= 0 {
			left = max(min(left, w.wait-time.Since(began)), 0)
		}
		more := w.wait < 0 || w.wait-time.Since(began) > left
		sent := time.Now()
		var got server.Lease
		err := l.within(ctx, left+releaseTime, http.MethodPost, lockPath(name)+"/leases", key, wish(w, left, more), &got)
		switch {
		case err == nil:
			if h, err := l.hold(ctx, got, sent, w.TTL); !errors.Is(err, lock.ErrLost) {
				return h, err
			}
			answered = time.Now() // it was over before it was here
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, lock.ErrHeld) && more:
			answered = time.Now()
		case !passing(err) || w.wait >= 0 && time.Since(began) >= w.wait || first && !isProblem(err) || time.Since(answered) > patience:
			return nil, err
		default:
			if !told {
				l.log.Warn("the lock cannot be had now; it is tried again", "for", patience, "error", err)
				told = true
			}
			if !sleep(ctx, time.Second) {
				return nil, context.Cause(ctx)
			}
		}
	}
}

func isProblem(err error) bool {
	var p *problem
	return errors.As(err, &p)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func wish(w want, wait time.Duration, more bool) server.Wish {
	return server.Wish{KeepPlace: more && wait > 0, Terms: server.Terms{TTL: w.TTL.Milliseconds(), MaxHold: w.MaxHold.Milliseconds(),
		Wait: wait.Milliseconds(), Shared: w.Shared, Permits: w.Permits, Of: w.Of, Who: w.Who}}
}

// within is do with a limit of its own.
func (l *locksOfServer) within(ctx context.Context, d time.Duration, method, path, idem string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return l.do(ctx, method, path, idem, body, into)
}

// served is a lock that is held through a server.
type served struct {
	l     *locksOfServer
	path  string
	token int64
	ttl   time.Duration

	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // renewing has ended
}

// hold makes a holder of an answer. What was answered long after it was asked may be over: then it is
// asked anew how much is left, and the time counts from before that question.
func (l *locksOfServer) hold(ctx context.Context, got server.Lease, sent time.Time, ttl time.Duration) (holder, error) {
	s := &served{l: l, path: lockPath(got.Lock) + "/leases/" + got.Lease, token: got.Token, ttl: ttl, done: make(chan struct{})}
	until := localEnd(sent, got.ExpiresIn)
	if time.Since(sent) > ttl/3 {
		var err error
		if until, err = s.renew(ctx, time.Now().Add(releaseTime)); err != nil {
			return nil, err
		}
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	go s.keep(until)
	return s, nil
}

// localEnd is until when a lease of which so much was left is taken for held: clocks that run at
// different speeds differ by less than a hundredth.
func localEnd(sent time.Time, ms int64) time.Time {
	left := time.Duration(ms) * time.Millisecond
	return sent.Add(left - left/100 - time.Millisecond)
}

// renew gives the lease its time again.
func (s *served) renew(ctx context.Context, until time.Time) (time.Time, error) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	sent := time.Now()
	var got server.Lease
	if err := s.l.do(ctx, http.MethodPut, s.path, "", map[string]int64{"ttl_ms": s.ttl.Milliseconds()}, &got); err != nil {
		return until, err
	}
	return localEnd(sent, got.ExpiresIn), nil
}

// keep renews the lease when a third of its time is over, until it is released or lost.
func (s *served) keep(until time.Time) {
	defer close(s.done)
	wait := time.Until(until) - s.ttl*2/3
	for {
		if !sleep(s.ctx, max(min(max(wait, s.ttl/10), time.Until(until)), 0)) {
			return
		}
		next, err := s.renew(s.ctx, until)
		switch {
		case s.ctx.Err() != nil:
			return
		case errors.Is(err, lock.ErrLost):
			s.cancel(fmt.Errorf("%w: %w", lock.ErrLost, err))
			return
		case err == nil:
			until = next
		}
		if !time.Now().Before(until) {
			s.cancel(errors.Join(fmt.Errorf("%w: it was not renewed in time", lock.ErrLost), err))
			return
		}
		wait = time.Until(until) - s.ttl*2/3
		if err != nil {
			wait = min(s.ttl/10, time.Second)
		}
	}
}

// Token is the fencing token.
func (s *served) Token() int64 { return s.token }

// Context ends when the lease is released or lost.
func (s *served) Context() context.Context { return s.ctx }

// Release ends the lease.
func (s *served) Release(ctx context.Context) error {
	lost := s.ctx.Err() != nil
	cause := context.Cause(s.ctx)
	s.cancel(lock.ErrReleased)
	<-s.done
	if lost {
		return cause
	}
	err := s.l.do(ctx, http.MethodDelete, s.path, "", nil, nil)
	if err != nil && passing(err) { // the same lease: safe
		err = s.l.do(ctx, http.MethodDelete, s.path, "", nil, nil)
		if errors.Is(err, lock.ErrLost) {
			err = nil // the first one may have ended it
		}
	}
	return err
}
