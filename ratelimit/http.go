package ratelimit

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// Problem types of draft-ietf-httpapi-ratelimit-headers-11, section 5.
const (
	problemQuota   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	problemReduced = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// HTTP lets requests pass to next as far as limits allow. Which limits a request goes by, and for how
// much, says of; of no limits it passes.
//
// Every response has the fields RateLimit-Policy and RateLimit of
// draft-ietf-httpapi-ratelimit-headers-11 for the rules that were asked and can refuse. A
// request that is refused gets 429, or 503 when the store is gone and a rule's Policy refused it, with
// Retry-After (but for a rule that is Blocked) and the draft's problem type, which names the rules. A LeakyBucket's turn is waited
// for; Concurrency's slots are held, and renewed, until next returns. What of gives has to be in its bounds:
// otherwise, and when of names unknown rules, the request gets 500 and the reason is logged.
func (l *Limiter) HTTP(of func(*http.Request) []Request, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reqs := of(r)
		if len(reqs) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		d, err := l.Allow(r.Context(), reqs)
		if err != nil {
			l.undecided(w, r, err)
			return
		}
		d.SetFields(w.Header())
		if !d.Allowed {
			d.refuse(w)
			return
		}
		defer d.hold(l)()
		if !turn(r.Context(), d.Wait) {
			return // nobody is there any more
		}
		next.ServeHTTP(w, r)
	})
}

func (l *Limiter) undecided(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody is there any more
	}
	l.opts.Logger.Error("limits: a request cannot be decided", "path", r.URL.Path, "error", err)
	write(w, http.StatusInternalServerError, problem{Type: "about:blank", Title: http.StatusText(http.StatusInternalServerError)})
}

// turn waits, and says whether the caller has.
func turn(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// hold keeps slots of Concurrency until it is told to give them back.
func (d Decision) hold(l *Limiter) (giveBack func()) {
	lease := time.Duration(0)
	for _, m := range d.calls {
		for _, w := range m.all {
			if t := time.Duration(w.span) * time.Microsecond; w.kind == kindConcurrency && (lease == 0 || t < lease) {
				lease = t
			}
		}
	}
	if lease == 0 {
		return func() {}
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for turn(ctx, max(lease/3, time.Millisecond)) {
			if _, err := d.Renew(ctx); err != nil && ctx.Err() == nil {
				l.opts.Logger.Warn("limits: a slot could not be renewed", "error", err)
			}
		}
	}()
	return func() {
		stop()
		<-ended // or it takes again what is given back
		ctx, cancel := context.WithTimeout(context.Background(), l.opts.Timeout)
		defer cancel()
		if err := d.Release(ctx); err != nil {
			l.opts.Logger.Warn("limits: a slot comes back only when its lease is over", "error", err)
		}
	}
}

// SetFields writes the fields RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers-11 for the rules that were
// asked and can refuse, as HTTP does.
func (d Decision) SetFields(h http.Header) {
	var policies, limits httpsfv.List
	for _, s := range d.Statuses {
		if s.Shadow || s.Remaining < 0 || s.Remaining == Unlimited || s.Quota.Limit == 0 {
			continue
		}
		policy, limit := httpsfv.NewItem(sfString(s.Request.Rule)), httpsfv.NewItem(sfString(s.Request.Rule))
		policy.Params.Add("q", s.Quota.Limit)
		switch {
		case s.Algorithm == Concurrency:
			policy.Params.Add("qu", "concurrent-requests")
		case s.Quota.Window >= time.Second && s.Quota.Window%time.Second == 0: // the draft knows whole seconds
			policy.Params.Add("w", int64(s.Quota.Window/time.Second))
		}
		if s.Quota.Burst > 0 && s.Quota.Burst != s.Quota.Limit {
			policy.Params.Add("holdfast-burst", s.Quota.Burst)
		}
		limit.Params.Add("r", s.Remaining)
		if s.Reset > 0 {
			limit.Params.Add("t", seconds(s.Reset))
		}
		policies, limits = append(policies, policy), append(limits, limit)
	}
	add(h, "RateLimit-Policy", policies)
	add(h, "RateLimit", limits)
}

func add(h http.Header, name string, list httpsfv.List) {
	if len(list) == 0 {
		return
	}
	if text, err := httpsfv.Marshal(list); err == nil { // names are made fit, numbers are in range
		h.Set(name, text)
	}
}

// sfString makes a structured field's string of a name: what it cannot hold becomes a question mark.
func sfString(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, name)
}

// seconds is rounded up: who comes back then is not too early.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// problem is an RFC 9457 problem.
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Violated []string `json:"violated-policies,omitempty"`
}

func (d Decision) refuse(w http.ResponseWriter) {
	p := problem{Type: problemQuota, Title: "The quota is used up", Violated: []string{}}
	status := http.StatusTooManyRequests
	if d.Source == FromPolicy {
		p.Type, p.Title, status = problemReduced, "There is less capacity for now", http.StatusServiceUnavailable
	}
	after := d.Wait
	for _, s := range d.Statuses {
		if s.Refused && !s.Shadow {
			p.Violated = append(p.Violated, sfString(s.Request.Rule))
			after = max(after, s.Reset) // not before t
		}
	}
	if d.Source != FromRules { // or a rule refuses whenever one comes
		w.Header().Set("Retry-After", strconv.FormatInt(max(seconds(after), 1), 10))
	}
	write(w, status, p)
}

func write(w http.ResponseWriter, status int, p problem) {
	p.Status = status
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(p) // the client may have left
}
