package server

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// probeTime bounds what one question after the dependencies takes.
	probeTime = time.Second
	// probeEvery is how long its answer is good for: /metrics needs no key, and whoever asks for
	// it again and again asks this process and not the database.
	probeEvery = time.Second
)

// check asks everything that the promises stand on, all at the same time. A nil error is a
// dependency that answers.
func (s *Server) check(ctx context.Context) map[string]error {
	answers := map[string]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, ping := range map[string]func(context.Context) error{"store": s.Store.Ping, "database": s.DB.Ping} {
		wg.Go(func() {
			err := ping(ctx)
			mu.Lock()
			defer mu.Unlock()
			answers[name] = err
		})
	}
	wg.Wait()
	return answers
}

// probe is what has to be looked up. It is done when metrics are asked for, and not before:
// where nobody looks, nobody is asked. A number that cannot be had is left out, because an old
// one would say that all is well.
type probe struct {
	server *Server

	mu   sync.Mutex
	at   time.Time
	last []prometheus.Metric
}

var (
	dependencyUp    = prometheus.NewDesc("holdfast_dependency_up", "Whether the store, the database, answers: 1 or 0.", []string{"dependency"}, nil)
	unsettled       = prometheus.NewDesc("holdfast_payments_unsettled", "Payments of all processes that are neither captured nor over.", nil, nil)
	oldestUnsettled = prometheus.NewDesc("holdfast_payments_oldest_unsettled_seconds", "Age of the oldest of them, 0 when there is none.", nil, nil)
	outboxLag       = prometheus.NewDesc("holdfast_outbox_lag_seconds", "Age of the oldest event that readers cannot see yet.", nil, nil)
)

func (p *probe) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{dependencyUp, unsettled, oldestUnsettled, outboxLag} {
		out <- d
	}
}

func (p *probe) Collect(out chan<- prometheus.Metric) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) >= probeEvery {
		p.last = p.server.probed()
		p.at = time.Now()
	}
	for _, m := range p.last {
		out <- m
	}
}

func (s *Server) probed() (all []prometheus.Metric) {
	ctx, cancel := context.WithTimeout(s.work, probeTime)
	defer cancel()
	add := func(d *prometheus.Desc, value float64, labels ...string) {
		all = append(all, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...))
	}
	up := map[bool]float64{true: 1}
	answers := s.check(ctx)
	for name, err := range answers {
		add(dependencyUp, up[err == nil], name)
	}
	if answers["database"] != nil {
		return all
	}
	if n, oldest, err := s.Payments.Unsettled(ctx); err == nil {
		add(unsettled, float64(n))
		add(oldestUnsettled, oldest.Seconds())
	}
	if lag, err := s.DB.OutboxLag(ctx); err == nil {
		add(outboxLag, lag.Seconds())
	}
	return all
}
