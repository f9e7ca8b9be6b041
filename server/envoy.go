package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// EnvoyCalls are what the metrics tell of Envoy's rate limit service. Its Observe is for envoy.Options,
// itself for Config.
type EnvoyCalls struct{ seconds *prometheus.HistogramVec }

// NewEnvoyCalls makes EnvoyCalls that have seen none.
func NewEnvoyCalls() *EnvoyCalls {
	c := &EnvoyCalls{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "holdfast_envoy_call_seconds", Help: "Time of a call of Envoy's rate limit service, by what came of it; late: the caller no longer waited.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .015, .02, .05, .1, .5, 1},
	}, []string{"outcome"})}
	for _, outcome := range []string{"ok", "over_limit", "late", "invalid", "failed"} {
		c.seconds.WithLabelValues(outcome) // from the start: the step from nothing to 1 is no increase
	}
	return c
}

// Observe counts a call.
func (c *EnvoyCalls) Observe(outcome string, took time.Duration) {
	c.seconds.WithLabelValues(outcome).Observe(took.Seconds())
}
