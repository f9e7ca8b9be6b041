package server

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

// LimitCalls are what the metrics tell of limits, whoever asks. Its Observe is for ratelimit.Options, its Reloaded for
// who reads rule files, itself for Config.
type LimitCalls struct {
	decisions *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	reloads   *prometheus.CounterVec
	lastOK    prometheus.Gauge
	readAt    prometheus.Gauge
	refused   topRefused

	mu    sync.Mutex
	rules map[string]bool // that have series of their own
}

// maxRuleSeries bounds the rules with series of their own; what more rules decide is counted together.
const maxRuleSeries = 200

// NewLimitCalls makes LimitCalls that have seen none.
func NewLimitCalls() *LimitCalls {
	c := &LimitCalls{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_limit_decisions_total", Help: "What rules said; would_refuse: a rule in shadow. Rules beyond the first 200 are counted as \"other\".",
		}, []string{"domain", "rule", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "holdfast_limit_decision_seconds", Help: "Time of a decision, by who decided; policy: the store did not answer.",
			Buckets: []float64{.00001, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, 1},
		}, []string{"source"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_limit_reloads_total", Help: "Rule files that changed and were read again; refused: there was an error in them, and the old rules stay.",
		}, []string{"outcome"}),
		lastOK: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "holdfast_limit_last_reload_ok", Help: "1 when the rule files were taken as they were last read; 0 when there was an error in them, and older rules hold.",
		}),
		readAt: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "holdfast_limit_rules_read_timestamp_seconds", Help: "When the rules that hold were read from their files.",
		}),
		refused: topRefused{since: time.Now()},
		rules:   map[string]bool{},
	}
	for _, source := range []ratelimit.Source{ratelimit.FromStore, ratelimit.FromLease, ratelimit.FromPolicy, ratelimit.FromRules} {
		c.seconds.WithLabelValues(string(source)) // from the start: the step from nothing to 1 is no increase
	}
	for _, outcome := range []string{"ok", "refused"} {
		c.reloads.WithLabelValues(outcome)
	}
	c.lastOK.Set(1) // a server whose first rules have an error does not start
	c.readAt.SetToCurrentTime()
	return c
}

// Observe counts a decision.
func (c *LimitCalls) Observe(d ratelimit.Decision, took time.Duration) {
	c.seconds.WithLabelValues(string(d.Source)).Observe(took.Seconds())
	for _, st := range d.Statuses {
		outcome := "passed"
		switch {
		case st.Refused && st.Shadow:
			outcome = "would_refuse"
		case st.Refused:
			outcome = "refused"
			c.refused.add(refusedBy{st.Request.Domain, st.Request.Rule, st.Request.Key}, time.Now())
		}
		domain, rule := c.series(st.Request.Domain, st.Request.Rule)
		c.decisions.WithLabelValues(domain, rule, outcome).Inc()
	}
}

// Reloaded counts a change of rule files.
func (c *LimitCalls) Reloaded(err error) {
	if err != nil {
		c.reloads.WithLabelValues("refused").Inc()
		c.lastOK.Set(0)
		return
	}
	c.reloads.WithLabelValues("ok").Inc()
	c.lastOK.Set(1)
	c.readAt.SetToCurrentTime()
}

// series keeps the number of series bounded, however often rules change.
func (c *LimitCalls) series(domain, rule string) (string, string) {
	id := domain + "\x00" + rule
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.rules[id] {
		if len(c.rules) >= maxRuleSeries {
			return "other", "other"
		}
		c.rules[id] = true
		for _, outcome := range []string{"passed", "refused", "would_refuse"} {
			c.decisions.WithLabelValues(domain, rule, outcome) // its first refusal is an increase
		}
	}
	return domain, rule
}

func (c *LimitCalls) register(registry *prometheus.Registry) {
	registry.MustRegister(c.decisions, c.seconds, c.reloads, c.lastOK, c.readAt)
}

type refusedBy struct{ domain, rule, key string }

// topRefused counts whom it refuses most, in a bounded room: who is new takes the place of the one with the least, and its
// count, which may be too much for it (Space-Saving: Metwally, Agrawal, El Abbadi, ICDT 2005). Labels of metrics would grow
// with the keys.
type topRefused struct {
	mu    sync.Mutex
	since time.Time // of last
	now   map[refusedBy]counted
	last  map[refusedBy]counted // the span before
	began time.Time             // of now
}

type counted struct{ count, error int64 }

const (
	maxRefused  = 256              // keys that are counted
	refusedSpan = 10 * time.Minute // what is counted is forgotten after one to two of these
)

func (t *topRefused) add(k refusedBy, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn(at)
	c, had := t.now[k]
	if !had && len(t.now) >= maxRefused {
		var least refusedBy
		first := true
		for k, v := range t.now {
			if first || v.count < c.count {
				least, c, first = k, v, false
			}
		}
		delete(t.now, least)
		c.error = c.count
	}
	c.count++
	t.now[k] = c
}

// turn begins another span when one is over. It needs mu.
func (t *topRefused) turn(at time.Time) {
	if t.now != nil && at.Sub(t.began) < refusedSpan {
		return
	}
	if t.now != nil && at.Sub(t.began) < 2*refusedSpan {
		t.last, t.since = t.now, t.began
	} else if t.now != nil {
		t.last, t.since = nil, at
	}
	t.now, t.began = map[refusedBy]counted{}, at
}

// leastOf is what a key that is not counted may have had.
func leastOf(span map[refusedBy]counted) counted {
	if len(span) < maxRefused {
		return counted{}
	}
	least := int64(math.MaxInt64)
	for _, c := range span {
		least = min(least, c.count)
	}
	return counted{least, least}
}

// top are those that were refused most.
func (t *topRefused) top(n int) (since time.Time, keys []RefusedKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn(time.Now())
	sum := map[refusedBy]counted{}
	for _, span := range []map[refusedBy]counted{t.last, t.now} {
		for k := range span {
			sum[k] = counted{}
		}
	}
	for _, span := range []map[refusedBy]counted{t.last, t.now} {
		unseen := leastOf(span)
		for k, had := range sum {
			c, ok := span[k]
			if !ok {
				c = unseen
			}
			sum[k] = counted{had.count + c.count, had.error + c.error}
		}
	}
	keys = make([]RefusedKey, 0, len(sum))
	for k, c := range sum {
		keys = append(keys, RefusedKey{Domain: k.domain, Rule: k.rule, Key: k.key, Refused: c.count, Error: c.error})
	}
	slices.SortFunc(keys, func(a, b RefusedKey) int {
		return cmp.Or(cmp.Compare(b.Refused, a.Refused), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Key, b.Key))
	})
	return t.since, keys[:min(n, len(keys))]
}
