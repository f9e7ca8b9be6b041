package server

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dev/holdfast/lock"
)

// censusEvery is how long a look at all locks is good for: it asks the store more than a thousand times.
const censusEvery = 15 * time.Second

// census looks at no more locks than this.
const maxCensus = 1000

// lockMetrics are what is told of locks.
type lockMetrics struct {
	requests *prometheus.CounterVec
	seconds  prometheus.Histogram
}

func newLockMetrics(registry *prometheus.Registry, s *Server) lockMetrics {
	m := lockMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_lock_requests_total", Help: "Acquisitions, renewals, releases and breaks of locks, by what became of them.",
		}, []string{"op", "outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "holdfast_lock_acquire_seconds", Help: "Time until a lock was acquired, standing in line included.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .1, .25, 1, 2.5, 5, 10, 20},
		}),
	}
	for op, outcomes := range map[string][]string{
		"acquire": {"ok", "held", "mode", "line-full", "failed"}, "renew": {"ok", "lost", "failed"},
		"release": {"ok", "lost", "failed"}, "break": {"ok", "failed"},
	} {
		for _, o := range outcomes {
			m.requests.WithLabelValues(op, o) // from the start: the step from nothing to 1 is no increase
		}
	}
	registry.MustRegister(m.requests, m.seconds)
	if s.Locks != nil {
		registry.MustRegister(&census{server: s})
	}
	return m
}

// count counts a request that began at some time.
func (m lockMetrics) count(op string, began time.Time, err error) {
	outcome := "failed"
	var bad *lock.InvalidError
	switch {
	case err == nil:
		outcome = "ok"
	case errors.As(err, &bad):
		return // it was no request for a lock
	case errors.Is(err, lock.ErrClosed):
	case errors.Is(err, lock.ErrHeld), errors.Is(err, lock.ErrKeepPlace):
		outcome = "held"
	case errors.Is(err, lock.ErrMode):
		outcome = "mode"
	case errors.Is(err, lock.ErrTooMany):
		outcome = "line-full"
	case errors.Is(err, lock.ErrLost):
		outcome = "lost"
	}
	m.requests.WithLabelValues(op, outcome).Inc()
	if op == "acquire" && err == nil {
		m.seconds.Observe(time.Since(began).Seconds())
	}
}

// census is who holds and who waits, in the whole store, whichever process they came through. It is taken
// when metrics are asked for. Numbers that cannot be had are left out.
type census struct {
	server *Server

	mu   sync.Mutex
	at   time.Time
	last []prometheus.Metric
}

var (
	locksHeld   = prometheus.NewDesc("holdfast_locks_held", "Locks that somebody holds; no more than 1,000 are counted.", nil, nil)
	lockHolders = prometheus.NewDesc("holdfast_lock_holders", "Leases of these locks.", nil, nil)
	lockWaiters = prometheus.NewDesc("holdfast_lock_waiters", "Who waits for these locks.", nil, nil)
	blocking    = prometheus.NewDesc("holdfast_lock_oldest_blocking_hold_seconds", "Age of the oldest lease of a lock for which somebody waits now, 0 when nobody does.", nil, nil)
	oldestHold  = prometheus.NewDesc("holdfast_lock_oldest_hold_seconds", "Age of the oldest of these leases, 0 when there is none.", nil, nil)
)

func (c *census) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{locksHeld, lockHolders, lockWaiters, oldestHold, blocking} {
		out <- d
	}
}

func (c *census) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) >= censusEvery {
		c.last = c.server.locksCounted()
		c.at = time.Now()
	}
	for _, m := range c.last {
		out <- m
	}
}

func (s *Server) locksCounted() []prometheus.Metric {
	ctx, cancel := context.WithTimeout(s.work, probeTime)
	defer cancel()
	all, _, err := s.Locks.All(ctx, maxCensus)
	if err != nil {
		return nil
	}
	var holders, waiters, oldest, blocked float64
	for _, i := range all {
		holders += float64(len(i.Holders))
		waiters += float64(i.Waiters)
		waited := i.Waiters > int64(len(i.Line)) || slices.ContainsFunc(i.Line, func(w lock.Waiting) bool { return w.Alive })
		for _, h := range i.Holders {
			age := i.Now.Sub(h.Since).Seconds()
			if oldest = max(oldest, age); waited {
				blocked = max(blocked, age)
			}
		}
	}
	gauge := func(d *prometheus.Desc, v float64) prometheus.Metric {
		return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	return []prometheus.Metric{gauge(locksHeld, float64(len(all))), gauge(lockHolders, holders), gauge(lockWaiters, waiters), gauge(oldestHold, oldest), gauge(blocking, blocked)}
}
