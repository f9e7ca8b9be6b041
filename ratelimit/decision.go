package ratelimit

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

// Request is what a call wants of one rule.
type Request struct {
	// Rule and Domain (by default "default") name the rule.
	Rule, Domain string
	// Key is whose count it is: a tenant, an address; up to 512 bytes of UTF-8 without control
	// characters. It may be empty.
	Key string
	// Cost is how many units, 1 or more.
	Cost int64

	matched *limit // Rules.Match found it
}

// Unlimited is what is left of a rule without a limit.
const Unlimited = math.MaxInt64

// Status is what one rule said.
type Status struct {
	Request Request
	// Quota is the rule's, or the override's that held for this key.
	Quota     Quota
	Algorithm Algorithm
	// Refused: it refuses, or, if it is a Shadow, would have refused.
	Refused, Shadow bool
	// Remaining is how many units could be taken now, after this call if it was admitted; -1 when
	// nobody asked. By a lease it is what the process holds and what the store had when it was last asked.
	Remaining int64
	// Wait is when to come back if it refuses; for a LeakyBucket that does not, when the turn is.
	Wait time.Duration
	// Reset is how long it takes until more than Remaining is left, if nothing else happens.
	Reset time.Duration
}

// Source is who decided.
type Source string

// The sources.
const (
	// FromStore: the store; the bounds hold.
	FromStore Source = "store"
	// FromPolicy: each rule's Policy, because the store did not answer.
	FromPolicy Source = "policy"
	// FromLease: this process, by what it has leased of a rule's budget, see Rule.Leased.
	FromLease Source = "lease"
	// FromRules: nobody was asked: every rule is unlimited, or one is blocked.
	FromRules Source = "rules"
)

// Decision is the answer to a call.
type Decision struct {
	Allowed bool
	// Statuses are of the requests in their order; where several are of one rule and key, they were
	// decided together.
	Statuses []Status
	// Wait is when to come back if it is refused: the longest of those that refuse. If it is allowed, when
	// the turn is (LeakyBucket), otherwise 0.
	Wait time.Duration
	// Atomic: all rules were decided in one step. Otherwise in several, one after the other (also where some were
	// decided by leases and others by the store), and what had been taken was given back on refusal.
	Atomic bool
	Source Source

	calls []made // what it took
}

// Refused are the names of the rules that refuse, shadows left out.
func (d Decision) Refused() (names []string) {
	for _, s := range d.Statuses {
		if s.Refused && !s.Shadow {
			names = append(names, s.Request.Rule)
		}
	}
	return names
}

// wants is one rule and key within a call, for one or more of its requests.
type wants struct {
	*limit
	whole    string // its key
	cost     int64
	requests []int // positions
	first    [1]int
	holds    *leased // what the process has leased of it, or nil
	passed   bool    // a shadow that would have refused took nothing
}

// step is what is decided in one round trip: the rules of one slot.
type step struct {
	tag string
	all []*wants
}

// made is a step that was taken.
type made struct {
	step
	by    *Limiter
	where *store.Store
	id    string
	kept  bool  // it is a reservation, and has a record
	taken int64 // µs by the clock of where
	parts int64 // the limits were divided by that
}

// plan sorts requests into steps. The statuses are filled as far as the rules alone say. AnyCost is for calls that were
// decided before, perhaps by other rules.
func (l *Limiter) plan(reqs []Request, anyCost bool) (d Decision, steps []step, err error) {
	if len(reqs) == 0 || len(reqs) > maxRequests {
		return d, nil, invalid("requests", "%d are not 1..%d", len(reqs), maxRequests)
	}
	rules := l.rules.Load()
	room := make([]wants, 0, len(reqs))
	d = Decision{Allowed: true, Atomic: true, Source: FromRules, Statuses: make([]Status, len(reqs))}
	for i, r := range reqs {
		lim, err := rules.find(r)
		if err != nil {
			return d, nil, fmt.Errorf("request %d: %w", i, err)
		}
		r.Rule, r.Domain = lim.Name, lim.Domain
		d.Statuses[i] = Status{Request: r, Quota: lim.quota, Algorithm: lim.Algorithm, Shadow: lim.Shadow, Remaining: -1}
		switch {
		case lim.Unlimited:
			d.Statuses[i].Remaining = Unlimited
		case lim.Blocked:
			d.Statuses[i].Remaining, d.Statuses[i].Refused = 0, true
			d.Allowed = d.Allowed && lim.Shadow
		default:
			var fits bool
			if steps, fits = addTo(steps, &room, lim, r, i, anyCost); fits {
				continue
			}
			if !lim.Shadow {
				return d, nil, fmt.Errorf("request %d: %w", i, invalid("Cost", "%d is above what rule %q ever admits at once (%d)", r.Cost, lim.Name, lim.most))
			}
			d.Statuses[i].Refused = true // it changes nothing for the others
		}
	}
	d.Atomic = len(steps) < 2
	return d, steps, sameSlot(steps)
}

// maxRequests bounds a call.
const maxRequests = 64

// addTo gives a request its place. It does not fit when a rule never admits at once what the call wants of it.
func addTo(steps []step, room *[]wants, lim *limit, r Request, i int, anyCost bool) (to []step, fits bool) {
	tag, whole := lim.place(r.Key)
	at := -1
	var w *wants
	for k := range steps {
		if steps[k].tag != tag {
			continue
		}
		at = k
		for _, had := range steps[k].all {
			if had.whole == whole {
				w = had
			}
		}
	}
	had := int64(0)
	if w != nil {
		had = w.cost
	}
	if had+r.Cost > lim.most && !anyCost {
		return steps, false
	}
	if at < 0 {
		if steps == nil {
			steps = make([]step, 0, 1)
		}
		steps = append(steps, step{tag: tag, all: make([]*wants, 0, cap(*room)-len(*room))})
		at = len(steps) - 1
	}
	if w == nil {
		*room = append(*room, wants{limit: lim, whole: whole})
		w = &(*room)[len(*room)-1]
		w.requests = w.first[:0]
		steps[at].all = append(steps[at].all, w)
	}
	w.requests = append(w.requests, i)
	w.cost += r.Cost
	return steps, true
}

// sameSlot refuses calls whose rules are in several slots, unless they said that they may be.
func sameSlot(steps []step) error {
	var first *wants
	for _, s := range steps {
		for _, w := range s.all {
			if w.Independent {
				continue
			}
			if first == nil {
				first = w
			} else if first.Tag != w.Tag {
				return fmt.Errorf("%w: rule %q of domain %q with tag %q, rule %q of domain %q with tag %q", ErrSlots, first.Name, first.Domain, first.Tag, w.Name, w.Domain, w.Tag)
			}
		}
	}
	return nil
}

// find checks a request and says by which limit it goes.
func (s *Rules) find(r Request) (*limit, error) {
	switch {
	case r.Cost < 1 || r.Cost > maxLimit:
		return nil, invalid("Cost", "%d is not in 1..%d", r.Cost, maxLimit)
	case !plain(r.Key, maxKey):
		return nil, invalid("Key", "is not up to %d bytes of UTF-8 without control characters", maxKey)
	case r.matched != nil:
		return r.matched, nil
	case r.Rule == "" || len(r.Rule) > maxRuleName:
		return nil, invalid("Rule", "is not 1..%d bytes", maxRuleName)
	case r.Domain == "":
		r.Domain = defaultDomain
	}
	all := s.named[name{r.Domain, r.Rule}]
	if all == nil {
		return nil, invalid("Rule", "%.40q is not a rule of domain %.40q", r.Rule, r.Domain)
	}
	if over := all.byKey[r.Key]; over != nil {
		return over, nil
	}
	return all.limit, nil
}

// Release gives back the slots of Concurrency that the call took; after it there is nothing to give
// back. Errors: ErrStore; the slots come back by themselves when their Lease is over.
func (d Decision) Release(ctx context.Context) error {
	for _, m := range d.calls {
		if err := m.settleOnly(ctx, kindConcurrency); err != nil {
			return fmt.Errorf("%w: %w", ErrStore, err)
		}
	}
	return nil
}

// Renew gives the slots of Concurrency that the call took their Lease again, and says whether they are
// still there: false when one has ended and others have the slot. A reservation can then be settled for as long as a
// new one, and a slot of it that has ended is not taken again. Errors: ErrStore; of a reservation also ErrNotReserved and
// ErrSettled.
func (d Decision) Renew(ctx context.Context) (bool, error) {
	for _, m := range d.calls {
		mode := int64(modeTake)
		if m.kept {
			mode = modeRenew
		}
		in := m.in(mode, m.by.opts.ReserveFor, func(w *wants) bool { return w.kind == kindConcurrency && !w.passed })
		if len(in.Keys) == 0 {
			continue
		}
		out, err := m.take(ctx, in)
		switch {
		case err != nil:
			return false, fmt.Errorf("%w: %w", ErrStore, err)
		case out.Outcome == notReserved:
			return false, ErrNotReserved
		case out.Outcome == settledBefore:
			return false, ErrSettled
		case out.Outcome != taken:
			return false, nil
		}
	}
	return true, nil
}
