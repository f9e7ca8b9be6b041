package replay

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

// Report is what rules would have decided.
type Report struct {
	Lines     int64      `json:"lines"`
	From      *time.Time `json:"from,omitempty"` // of the first line
	To        *time.Time `json:"to,omitempty"`   // of the last line
	Admitted  int64      `json:"admitted"`       // calls that some rule was for
	Refused   int64      `json:"refused"`
	Unmatched int64      `json:"unmatched"`         // calls that no rule was for; they are admitted
	Invalid   *Invalid   `json:"invalid,omitempty"` // calls that would have been no valid ones
	Rules     []Rule     `json:"rules"`             // by domain and name, those that nobody asked too
}

// Invalid are calls that the limiter does not take, such as one that wants more than a rule ever admits at once.
type Invalid struct {
	Calls int64  `json:"calls"`
	Line  int64  `json:"first_line"`
	Why   string `json:"why"` // of the first
}

// Rule is what one rule said. Asked is the sum of the four numbers below it; a call with several descriptors for one rule counts for each.
type Rule struct {
	Domain      string   `json:"domain"`
	Name        string   `json:"rule"`
	Algorithm   string   `json:"algorithm"`
	Shadow      bool     `json:"shadow,omitempty"`
	Asked       int64    `json:"asked"`
	Admitted    int64    `json:"admitted"`
	Refused     int64    `json:"refused"`
	WouldRefuse int64    `json:"would_refuse"`      // by a shadow
	ByOthers    int64    `json:"refused_by_others"` // another rule of the same call refused it
	Worst       *Burst   `json:"worst_burst,omitempty"`
	First       *Refusal `json:"first_refusal,omitempty"` // or what a shadow would have refused first
}

// Burst is the most units that one key asked for, whatever the verdict, within one window of the rule. Windows begin at multiples of their length
// since 1970. The window of a concurrency rule is its lease, of a rule without a limit a second.
type Burst struct {
	Units  int64     `json:"units"`
	Key    string    `json:"key"`
	Since  time.Time `json:"since"`
	Window int64     `json:"window_ms"`
}

// Refusal is a line that was refused.
type Refusal struct {
	Line int64     `json:"line"`
	Time time.Time `json:"time"`
	Key  string    `json:"key"`
}

func (r *Report) saw(at time.Time) {
	at = at.UTC()
	if r.From == nil {
		r.From = &at
	}
	r.To = &at
}

func (r *Report) invalid(line int64, err error) {
	if r.Invalid == nil {
		r.Invalid = &Invalid{Line: line, Why: err.Error()}
	}
	r.Invalid.Calls++
}

type ruleName struct{ domain, name string }

// sums are what the rules said, and what keys ask for in the windows that are open.
type sums struct {
	rules  map[ruleName]*Rule
	bursts map[burstOf]burst
	most   int // bursts
	prune  int // when there are so many bursts, those that are over are forgotten
}

type burstOf struct {
	rule *Rule
	key  string
}

type burst struct{ start, window, units int64 } // µs, µs

const fewBursts = 4096

func newSums(rules *ratelimit.Rules) sums {
	s := sums{rules: map[ruleName]*Rule{}, bursts: map[burstOf]burst{}, most: maxKeys, prune: fewBursts}
	for _, r := range rules.All() {
		s.rules[ruleName{r.Domain, r.Name}] = &Rule{Domain: r.Domain, Name: r.Name, Algorithm: string(r.Algorithm), Shadow: r.Shadow}
	}
	return s
}

// add counts what one rule said of a call.
func (s *sums) add(st ratelimit.Status, allowed bool, line int64, at time.Time) error {
	r := s.rules[ruleName{st.Request.Domain, st.Request.Rule}]
	r.Asked++
	switch {
	case st.Refused && st.Shadow:
		r.WouldRefuse++
	case st.Refused:
		r.Refused++
	case allowed:
		r.Admitted++
	default:
		r.ByOthers++
	}
	if st.Refused && r.First == nil {
		r.First = &Refusal{Line: line, Time: at.UTC(), Key: st.Request.Key}
	}
	return s.burst(r, st, at.UnixMicro())
}

func (s *sums) burst(r *Rule, st ratelimit.Status, at int64) error {
	window := windowOf(st).Microseconds()
	of := burstOf{r, st.Request.Key}
	b, had := s.bursts[of]
	if start := at / window * window; b.start != start || b.window != window {
		b = burst{start: start, window: window}
	}
	b.units += st.Request.Cost
	if !had && len(s.bursts) >= s.prune {
		if err := s.forget(at); err != nil {
			return err
		}
	}
	s.bursts[of] = b
	if r.Worst == nil || b.units > r.Worst.Units {
		r.Worst = &Burst{b.units, of.key, time.UnixMicro(b.start).UTC(), window / 1000}
	}
	return nil
}

func windowOf(st ratelimit.Status) time.Duration {
	q := st.Quota
	switch {
	case q.Window > 0:
		return q.Window
	case q.Lease > 0:
		return q.Lease
	case st.Algorithm == ratelimit.Concurrency:
		return 30 * time.Second // see Quota.Lease
	}
	return time.Second
}

// forget drops the windows that are over.
func (s *sums) forget(at int64) error {
	maps.DeleteFunc(s.bursts, func(_ burstOf, b burst) bool { return b.start+b.window <= at })
	if len(s.bursts) >= s.most {
		return ErrTooMuch
	}
	s.prune = min(max(fewBursts, 2*len(s.bursts)), s.most)
	return nil
}

func (s *sums) list() []Rule {
	all := make([]Rule, 0, len(s.rules))
	for _, r := range s.rules {
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b Rule) int { return cmp.Or(cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Name, b.Name)) })
	return all
}
