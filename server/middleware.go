package server

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

var sane = regexp.MustCompile(`^[A-Za-z0-9_.:/+=-]{1,128}$`)

// answerWriter remembers the status for the log and the metrics.
type answerWriter struct {
	http.ResponseWriter
	status int
}

func (w *answerWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *answerWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// observed gives each request an id, counts it, logs what is slow or failed, and turns a panic
// into a 500.
func (s *Server) observed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		began := time.Now()
		t := newTags(r)
		rw.Header().Set("X-Request-Id", t.request)
		rw.Header().Set("X-Content-Type-Options", "nosniff")
		if s.closing.Load() {
			rw.Header().Set("Connection", "close")
		}
		w := &answerWriter{ResponseWriter: rw}
		r = r.WithContext(context.WithValue(r.Context(), tagsKey{}, t))
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // the value is the contract
					panic(p)
				}
				s.Logger.ErrorContext(r.Context(), "panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				if w.status == 0 {
					writeProblem(w, problem(http.StatusInternalServerError, "internal", "something that should not happen; the log has it under request "+t.request))
				}
			}
			s.account(r, t, w.status, began)
		}()
		next.ServeHTTP(w, r)
	})
}

func (s *Server) account(r *http.Request, t *tags, status int, began time.Time) {
	route, took := routeOf(r.URL.EscapedPath()), time.Since(began)
	long := route == acquireRoute || route == acquireAllRoute || route == "/v1/sales/{sale}/events" // as long as the client likes
	s.metrics.requests.WithLabelValues(route, methodOf(r.Method), strconv.Itoa(status)).Inc()
	if !long {
		s.metrics.seconds.WithLabelValues(route, methodOf(r.Method)).Observe(took.Seconds())
	}
	if status >= 500 || (took > time.Second && !long) {
		kept, ok := int64(0), true
		if status == http.StatusServiceUnavailable || status < 500 { // what a storm brings
			kept, ok = s.quiet.line("status "+strconv.Itoa(status), time.Now())
		}
		if ok {
			s.Logger.WarnContext(r.Context(), "request", "method", r.Method, "path", r.URL.Path, "status", status, "took", took, "unlogged", kept)
		}
	}
	s.span(r.Context(), t, route, status, began)
}

// Where requests stand in line.
const (
	acquireRoute    = "/v1/locks/{name}/leases"
	acquireAllRoute = "/v1/leases"
)

// routeOf keeps the number of metrics bounded: what a path, as it was sent, names is left out.
func routeOf(path string) string {
	switch path {
	case "/", "/storm", "/v1/backups", "/livez", "/readyz", "/metrics", "/openapi.json", "/openapi.yaml":
		return path
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] != "v1" || len(parts) < 2 || len(parts) > 5 {
		return "other"
	}
	switch parts[1] + strconv.Itoa(len(parts)) {
	case "sales2":
		return "/v1/sales"
	case "sales3":
		return "/v1/sales/{sale}"
	case "sales4":
		if parts[3] == "events" {
			return "/v1/sales/{sale}/events"
		}
		return "/v1/sales/{sale}/holds"
	case "sales5":
		return "/v1/sales/{sale}/holds/{hold}"
	case "leases2":
		return acquireAllRoute
	case "locks2":
		return "/v1/locks"
	case "locks3":
		return "/v1/locks/{name}"
	case "locks4":
		if parts[3] == "breaks" {
			return "/v1/locks/{name}/breaks"
		}
		return acquireRoute
	case "locks5":
		return "/v1/locks/{name}/leases/{lease}"
	case "limits2":
		return "/v1/limits"
	case "limits3":
		if parts[2] == "decisions" || parts[2] == "refused" {
			return "/v1/limits/" + parts[2]
		}
	case "limits4":
		return "/v1/limits/reservations/{id}"
	case "limits5":
		switch parts[4] {
		case "commits", "refunds", "renewals":
			return "/v1/limits/reservations/{id}/" + parts[4]
		}
	case "payments2":
		return "/v1/payments"
	case "payments3":
		return "/v1/payments/{id}"
	case "orders3":
		return "/v1/orders/{id}"
	}
	return "other"
}

func methodOf(m string) string {
	switch m {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead:
		return m
	}
	return "other"
}

// bounded limits how many requests are worked on at once, and for how long each.
func (s *Server) bounded(next http.Handler) http.Handler { return s.within(s.slots, s.Timeout, next) }

// patiently is for those that may stand in line: they take nobody else's place.
func (s *Server) patiently(next http.Handler) http.Handler {
	return s.within(s.line, maxWait+s.Timeout, next)
}

func (s *Server) within(slots chan struct{}, timeout time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			s.metrics.problems.WithLabelValues("overloaded").Inc()
			w.Header().Set("Retry-After", "1")
			writeProblem(w, problem(http.StatusServiceUnavailable, "overloaded", "too many requests are worked on; come back"))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
