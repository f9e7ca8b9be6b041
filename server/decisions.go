package server

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dev/holdfast/store"
)

// Decisions are what the metrics tell of a store's decisions. Its Observe is for store.Options,
// itself for Config.
type Decisions struct{ seconds *prometheus.HistogramVec }

// NewDecisions makes Decisions that have seen none.
func NewDecisions() *Decisions {
	return &Decisions{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "holdfast_store_decision_seconds", Help: "Time of a decision of the store, waiting included.",
		Buckets: []float64{.00001, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
	}, []string{"decision", "outcome"})}
}

// Observe counts a decision.
func (d *Decisions) Observe(decision string, took time.Duration, err error) {
	d.seconds.WithLabelValues(decision, outcome(err)).Observe(took.Seconds())
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, store.ErrOutcomeUnknown):
		return "unknown"
	case errors.Is(err, store.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, store.ErrFull):
		return "full"
	}
	return "failed"
}
