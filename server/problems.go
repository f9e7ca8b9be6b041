package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// typePrefix begins the type of every problem. Types are stable; titles and details are for
// people.
const typePrefix = "urn:holdfast:problem:"

func problem(status int, kind, detail string) *huma.ErrorModel {
	return &huma.ErrorModel{Type: typePrefix + kind, Title: http.StatusText(status), Status: status, Detail: detail}
}

func fieldProblem(field, reason string) *huma.ErrorModel {
	p := problem(http.StatusUnprocessableEntity, "invalid", field+" "+reason)
	p.Errors = []*huma.ErrorDetail{{Message: reason, Location: "body." + field}}
	return p
}

func pathProblem(field, reason string) *huma.ErrorModel {
	p := fieldProblem(field, reason)
	p.Errors[0].Location = "path." + field
	return p
}

// lockProblem names the field of a request that package lock does not take.
func lockProblem(e *lock.InvalidError) *huma.ErrorModel {
	switch e.Field {
	case "name", "lease":
		return pathProblem(e.Field, e.Reason)
	case "ttl", "max_hold":
		return fieldProblem(e.Field+"_ms", e.Reason)
	}
	return fieldProblem(e.Field, e.Reason)
}

// nameProblem gives problems that come from reading a request their types. What was sent is not
// sent back.
func nameProblem(_ huma.Context, status string, v any) (any, error) {
	p, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	if p.Type == "" {
		kind := map[int]string{
			http.StatusBadRequest: "malformed", http.StatusUnprocessableEntity: "invalid",
			http.StatusRequestEntityTooLarge: "too-large", http.StatusUnsupportedMediaType: "media-type",
			http.StatusRequestTimeout: "body-timeout", http.StatusNotAcceptable: "not-acceptable",
		}[p.Status]
		if kind == "" {
			kind = "status-" + status
		}
		p.Type = typePrefix + kind
	}
	for _, e := range p.Errors {
		e.Value = nil
	}
	return p, nil
}

// known are the errors that have a problem of their own, most specific first.
var known = []struct {
	err    error
	status int
	kind   string
	detail string
	retry  int // seconds
}{
	{flashsale.ErrSoldOut, 409, "sold-out", "every unit is sold or held; held ones may come back", 1},
	{flashsale.ErrLimit, 409, "limit", "the buyer has as many units as one buyer may have", 0},
	{flashsale.ErrNotOpen, 409, "not-open", "the sale has not opened yet", 1},
	{flashsale.ErrExists, 409, "exists", "a sale with other terms has this id", 0},
	{flashsale.ErrPaid, 409, "hold-paid", "the hold has a payment that was accepted", 0},
	{flashsale.ErrNotFound, 404, "not-found", "there is no such sale, hold or order", 0},
	{flashsale.ErrKeyReused, 422, "key-reused", "the Idempotency-Key was used for another request", 0},
	{flashsale.ErrInFlight, 409, "in-flight", "a request with this Idempotency-Key is running", 1},
	{payment.ErrNotFound, 404, "not-found", "there is no such payment", 0},
	{payment.ErrHoldGone, 409, "hold-gone", "the hold has ended", 0},
	{payment.ErrHoldPaid, 409, "hold-paid", "the hold has a payment that was accepted", 0},
	{payment.ErrAmount, 422, "amount", "amount or currency differ from the price", 0},
	{payment.ErrKeyReused, 422, "key-reused", "the Idempotency-Key was used for another request", 0},
	{payment.ErrInFlight, 409, "in-flight", "a request with this Idempotency-Key is running", 1},
	{flashsale.ErrClosed, 503, "closing", "the server is shutting down", 1},
	{payment.ErrClosed, 503, "closing", "the server is shutting down", 1},
	{store.ErrOutcomeUnknown, 503, "outcome-unknown", "it is not known what happened; repeat with the same key, or the same id, and it happens once", 1},
	{sqldb.ErrOutcomeUnknown, 503, "outcome-unknown", "it is not known what happened; repeat with the same key", 1},
	{store.ErrFull, 503, "store-full", "the store has no room", 10},
	{sqldb.ErrFull, 503, "database-full", "the database has no room", 10},
	{store.ErrUnavailable, 503, "store-unavailable", "the store does not answer", 1},
	{sqldb.ErrBusy, 503, "busy", "the database is busy", 1},
	{sqldb.ErrUnavailable, 503, "database-unavailable", "the database does not answer", 1},
	{lock.ErrClosed, 503, "closing", "the server is shutting down", 1},
	{lock.ErrHeld, 409, "lock-held", "others hold the lock, or wait for it", 1},
	{lock.ErrKeepPlace, 409, "lock-held", "others hold the lock; your place in line is kept for 3 s", 1},
	{lock.ErrMode, 409, "lock-mode", "the lock is held with another number of permits", 1},
	{lock.ErrTooMany, 429, "lock-line-full", "as many wait for the lock as may", 1},
	{lock.ErrLost, 409, "lease-lost", "the lease has ended: it was released or broken, or its time was over", 0},
	{errNotOperator, 403, "not-an-operator", "the API key needs operator: true in the configuration", 0},
	{ratelimit.ErrNotReserved, 404, "not-reserved", "there is no such reservation: it was refused, counted by no rule, made with other descriptors or costs, or is too old to be settled", 0},
	{ratelimit.ErrSettled, 409, "settled", "the reservation was settled before, with another outcome", 0},
	{ratelimit.ErrSlots, 409, "slots", "the descriptors' rules are in different slots: give them one tag, or mark them independent", 0},
	{ratelimit.ErrClosed, 503, "closing", "the server is shutting down", 1},
	{ratelimit.ErrStore, 503, "store-unavailable", "the store does not answer; repeat", 1},
	{errNoLimits, 501, "no-limits", "the server was started without rule files (--limits)", 0},
	{errNoLocks, 501, "no-locks", "the store's engine may evict keys, so there are no locks: its maxmemory-policy has to be noeviction", 0},
	{context.DeadlineExceeded, 503, "timeout", "it took too long; repeat with the same key", 1},
	{context.Canceled, 503, "canceled", "the request was given up; repeat with the same key", 1},
}

// problemKinds are the kinds that are counted, each once.
func problemKinds() []string {
	kinds := []string{"internal", "overloaded"}
	for _, k := range known {
		if !slices.Contains(kinds, k.kind) {
			kinds = append(kinds, k.kind)
		}
	}
	return kinds
}

// fail turns an error into a problem.
func (s *Server) fail(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	for _, k := range known {
		if !errors.Is(err, k.err) {
			continue
		}
		if k.status >= 500 {
			if kept, ok := s.quiet.line(k.kind, time.Now()); ok {
				s.Logger.WarnContext(ctx, "request failed", "problem", k.kind, "error", err, "unlogged", kept)
			}
		}
		s.metrics.problems.WithLabelValues(k.kind).Inc()
		return withRetry(problem(k.status, k.kind, k.detail), k.retry)
	}
	var of *flashsale.InvalidError
	var op *payment.InvalidError
	var ol *lock.InvalidError
	var or *ratelimit.FieldError
	switch {
	case errors.As(err, &of):
		return fieldProblem(of.Field, of.Reason)
	case errors.As(err, &op):
		return fieldProblem(op.Field, op.Reason)
	case errors.As(err, &ol):
		return lockProblem(ol)
	case errors.As(err, &or):
		return limitProblem(or)
	}
	s.Logger.ErrorContext(ctx, "request failed", "error", err)
	s.metrics.problems.WithLabelValues("internal").Inc()
	return problem(http.StatusInternalServerError, "internal", "something that should not happen; the log has it under request "+requestID(ctx))
}

func withRetry(p *huma.ErrorModel, seconds int) error {
	if seconds == 0 {
		return p
	}
	return huma.ErrorWithHeaders(p, http.Header{"Retry-After": {strconv.Itoa(seconds)}})
}

// writeProblem answers where huma does not.
func writeProblem(w http.ResponseWriter, p *huma.ErrorModel) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client may be gone
}
