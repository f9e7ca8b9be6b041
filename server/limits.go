package server

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

// Problem types of draft-ietf-httpapi-ratelimit-headers-11, section 5.
const (
	typeQuota   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	typeReduced = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// LimitEntry is one step of a descriptor.
type LimitEntry struct {
	Key   string `json:"key" minLength:"1" maxLength:"256"`
	Value string `json:"value,omitempty" maxLength:"512"`
}

// LimitDescriptor says of whom and of what something is wanted.
type LimitDescriptor struct {
	Entries []LimitEntry `json:"entries" minItems:"1" maxItems:"16" doc:"From the general to the particular, as rule files nest them."`
	Cost    int64        `json:"cost,omitempty" minimum:"1" maximum:"1000000000" doc:"How many units; 1 if left out."`
}

// LimitCall is what a call wants.
type LimitCall struct {
	Domain      string            `json:"domain" minLength:"1" maxLength:"128" doc:"The rule file's domain."`
	Descriptors []LimitDescriptor `json:"descriptors" minItems:"1" maxItems:"64" doc:"All of them are taken, or none. One that no rule is for admits."`
}

// LimitStatus is what one rule said.
type LimitStatus struct {
	Descriptor int    `json:"descriptor" doc:"Which of the call's descriptors it was asked for, from 0."`
	Rule       string `json:"rule"`
	Algorithm  string `json:"algorithm"`
	Limit      int64  `json:"limit" doc:"Units a window; at the same time for concurrency; 0: it refuses everything."`
	Window     int64  `json:"window_ms,omitempty"`
	Burst      int64  `json:"burst,omitempty"`
	Refused    bool   `json:"refused,omitempty"`
	Shadow     bool   `json:"shadow,omitempty" doc:"It only counts: that it would have refused changes nothing."`
	Remaining  *int64 `json:"remaining,omitempty" doc:"Units that could be taken now; left out where nobody was asked or there is no limit."`
	Wait       int64  `json:"wait_ms,omitempty" doc:"When to come back if it refuses; for a leaky bucket that does not, when the turn is. Rounded up."`
	Reset      int64  `json:"reset_ms,omitempty" doc:"When more will be left, if nothing else happens. Rounded up."`
}

// LimitDecision is the answer to a call.
type LimitDecision struct {
	Allowed bool          `json:"allowed"`
	Wait    int64         `json:"wait_ms" doc:"Refused: when to come back. Allowed: when the turn is, which is now but for leaky buckets."`
	Atomic  bool          `json:"atomic" doc:"All rules were decided in one step."`
	Source  string        `json:"source" enum:"store,policy,lease,rules" doc:"Who decided; policy: each rule's on_error, for the store did not answer."`
	Limits  []LimitStatus `json:"limits" doc:"What each rule said, in the order of the descriptors."`
}

// LimitRefusal is a refusal's problem, and the decision.
type LimitRefusal struct {
	huma.ErrorModel
	LimitDecision
	Violated []string `json:"violated-policies" doc:"The rules that refused."`
}

type limitOutput struct {
	Policy string `header:"RateLimit-Policy"`
	Limit  string `header:"RateLimit"`
	Body   LimitDecision
}

type limitInput struct {
	Body struct {
		LimitCall
		Check bool `json:"check,omitempty" doc:"Only say what would be decided: take nothing."`
	}
}

// ReservationPath names a reservation.
type ReservationPath struct {
	ID string `path:"id" pattern:"^[A-Za-z0-9_-]{1,64}$" doc:"The reservation's id, which you choose: a new one for each."`
}

type reserveInput struct {
	ReservationPath
	Body LimitCall
}

type settleInput struct {
	ReservationPath
	Body struct {
		LimitCall
		Actual []int64 `json:"actual" minItems:"1" maxItems:"64" doc:"What it came to, units for each descriptor, 0 or more."`
	}
}

type renewalOutput struct {
	Body struct {
		Held bool `json:"held" doc:"False when a lease was over and others have the slot."`
	}
}

func (s *Server) limitRoutes() {
	huma.Register(s.api, s.limitOperation("decide-limits", http.MethodPost, "/v1/limits/decisions", "Take what a call wants of all its limits, or of none", 200), s.decideLimits)
	huma.Register(s.api, s.limitOperation("reserve-limits", http.MethodPut, "/v1/limits/reservations/{id}", "Take a guess, for a call whose cost is known afterwards", 200), s.reserveLimits)
	huma.Register(s.api, s.operation("commit-reservation", http.MethodPost, "/v1/limits/reservations/{id}/commits", "Say what it came to, with the same descriptors", 204), s.commitReservation)
	huma.Register(s.api, s.operation("refund-reservation", http.MethodPost, "/v1/limits/reservations/{id}/refunds", "Give everything back, with the same descriptors", 204), s.refundReservation)
	huma.Register(s.api, s.operation("renew-reservation", http.MethodPost, "/v1/limits/reservations/{id}/renewals", "Keep slots of concurrency for another lease, with the same descriptors", 200), s.renewReservation)
	huma.Register(s.api, s.operation("list-limits", http.MethodGet, "/v1/limits", "The rules", 200), s.listLimits)
	refused := s.operation("list-refused", http.MethodGet, "/v1/limits/refused", "Who is refused most by this process; for operators", 200)
	refused.Errors = append(refused.Errors, http.StatusForbidden)
	huma.Register(s.api, refused, s.listRefused)
}

// limitOperation is one whose refusals are decisions too.
func (s *Server) limitOperation(id, method, path, summary string, status int) huma.Operation {
	op := s.operation(id, method, path, summary, status)
	schema := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[LimitRefusal](), true, "")
	op.Responses = map[string]*huma.Response{"429": {
		Description: "Refused; Retry-After says when to come back. Without it, never: a rule admits nothing.",
		Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
	}}
	return op
}

// wanted finds the rules of a call. Which[i] is the descriptor of the i-th request.
func (s *Server) wanted(c LimitCall) (reqs []ratelimit.Request, which []int) {
	descriptors := make([][]ratelimit.Entry, len(c.Descriptors))
	for i, d := range c.Descriptors {
		for _, e := range d.Entries {
			descriptors[i] = append(descriptors[i], ratelimit.Entry{Key: e.Key, Value: e.Value})
		}
	}
	reqs, which = s.Limits.Rules().Match(c.Domain, 1, descriptors...)
	for i := range reqs {
		reqs[i].Cost = max(c.Descriptors[which[i]].Cost, 1)
	}
	return reqs, which
}

func (s *Server) decideLimits(ctx context.Context, in *limitInput) (*limitOutput, error) {
	if s.Limits == nil {
		return nil, s.fail(ctx, errNoLimits)
	}
	reqs, which := s.wanted(in.Body.LimitCall)
	decide := s.Limits.Allow
	if in.Body.Check {
		decide = s.Limits.Check
	}
	return s.decided(ctx, reqs, which, func() (ratelimit.Decision, error) { return decide(ctx, reqs) })
}

func (s *Server) reserveLimits(ctx context.Context, in *reserveInput) (*limitOutput, error) {
	if s.Limits == nil {
		return nil, s.fail(ctx, errNoLimits)
	}
	reqs, which := s.wanted(in.Body)
	return s.decided(ctx, reqs, which, func() (ratelimit.Decision, error) {
		r, err := s.Limits.Reserve(ctx, in.owned(ctx, in.Body), reqs)
		if err != nil {
			return ratelimit.Decision{}, err
		}
		return r.Decision, nil
	})
}

// owned is the id in the store. Another caller's, or with other descriptors, is another reservation: nobody gives back what was
// taken of somebody else.
func (p ReservationPath) owned(ctx context.Context, c LimitCall) string {
	text := fmt.Appendf(nil, "%q %q %q", caller(ctx), p.ID, c.Domain)
	for _, d := range c.Descriptors {
		text = fmt.Appendf(text, " %q %d", d.Entries, max(d.Cost, 1))
	}
	sum := sha256.Sum256(text)
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:20])
}

// decided answers with a decision; of no rules everything is allowed.
func (s *Server) decided(ctx context.Context, reqs []ratelimit.Request, which []int, decide func() (ratelimit.Decision, error)) (*limitOutput, error) {
	if len(reqs) == 0 {
		return &limitOutput{Body: LimitDecision{Allowed: true, Atomic: true, Source: string(ratelimit.FromRules), Limits: []LimitStatus{}}}, nil
	}
	d, err := decide()
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	fields := http.Header{}
	d.SetFields(fields)
	out := &limitOutput{Policy: fields.Get("RateLimit-Policy"), Limit: fields.Get("RateLimit"), Body: decisionOf(d, which)}
	if d.Allowed {
		return out, nil
	}
	return nil, refusal(d, out.Body, fields)
}

func refusal(d ratelimit.Decision, body LimitDecision, fields http.Header) error {
	p := &LimitRefusal{LimitDecision: body, Violated: d.Refused(), ErrorModel: huma.ErrorModel{
		Type: typeQuota, Title: "The quota is used up", Status: http.StatusTooManyRequests, Detail: "refused by " + strings.Join(d.Refused(), ", "),
	}}
	if d.Source == ratelimit.FromPolicy {
		p.Type, p.Title, p.Status = typeReduced, "There is less capacity for now", http.StatusServiceUnavailable
	}
	if d.Source != ratelimit.FromRules { // or a rule refuses whenever one comes
		fields.Set("Retry-After", strconv.FormatInt(max((body.Wait+999)/1000, 1), 10))
	}
	return huma.ErrorWithHeaders(p, fields)
}

// roundedUp is in whole milliseconds: who comes back then is not too early.
func roundedUp(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

func decisionOf(d ratelimit.Decision, which []int) LimitDecision {
	out := LimitDecision{Allowed: d.Allowed, Wait: roundedUp(d.Wait), Atomic: d.Atomic, Source: string(d.Source), Limits: make([]LimitStatus, 0, len(d.Statuses))}
	for i, st := range d.Statuses {
		l := LimitStatus{
			Descriptor: which[i], Rule: st.Request.Rule, Algorithm: string(st.Algorithm), Limit: st.Quota.Limit, Window: st.Quota.Window.Milliseconds(),
			Refused: st.Refused, Shadow: st.Shadow, Wait: roundedUp(st.Wait), Reset: roundedUp(st.Reset),
		}
		if st.Quota.Burst != st.Quota.Limit {
			l.Burst = st.Quota.Burst
		}
		if st.Remaining >= 0 && st.Remaining != ratelimit.Unlimited {
			l.Remaining = &st.Remaining
		}
		out.Limits = append(out.Limits, l)
	}
	return out
}

// reserved is a reservation that was made by whichever server.
func (s *Server) reserved(ctx context.Context, p ReservationPath, c LimitCall) (r *ratelimit.Reservation, which []int, err error) {
	if s.Limits == nil {
		return nil, nil, errNoLimits
	}
	reqs, which := s.wanted(c)
	if len(reqs) == 0 {
		return nil, nil, ratelimit.ErrNotReserved
	}
	r, err = s.Limits.Resume(p.owned(ctx, c), reqs)
	return r, which, err
}

func (s *Server) commitReservation(ctx context.Context, in *settleInput) (*struct{}, error) {
	if len(in.Body.Actual) != len(in.Body.Descriptors) {
		return nil, fieldProblem("actual", fmt.Sprintf("has %d numbers for %d descriptors", len(in.Body.Actual), len(in.Body.Descriptors)))
	}
	r, which, err := s.reserved(ctx, in.ReservationPath, in.Body.LimitCall)
	if err == nil {
		actual := make([]int64, len(which))
		for i, d := range which {
			actual[i] = in.Body.Actual[d]
		}
		err = r.Commit(ctx, actual...)
	}
	return nil, s.fail(ctx, err)
}

func (s *Server) refundReservation(ctx context.Context, in *reserveInput) (*struct{}, error) {
	r, _, err := s.reserved(ctx, in.ReservationPath, in.Body)
	if err == nil {
		err = r.Refund(ctx)
	}
	return nil, s.fail(ctx, err)
}

func (s *Server) renewReservation(ctx context.Context, in *reserveInput) (*renewalOutput, error) {
	r, _, err := s.reserved(ctx, in.ReservationPath, in.Body)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	out := &renewalOutput{}
	out.Body.Held, err = r.Renew(ctx)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return out, nil
}

var errNoLimits = errors.New("server: without limits")

// limitProblem names the field of a call that package ratelimit does not take.
func limitProblem(e *ratelimit.FieldError) *huma.ErrorModel {
	return fieldProblem("descriptors", strings.ToLower(e.Field)+" "+e.Reason)
}
