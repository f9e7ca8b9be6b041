package server

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/payment"
)

// metrics has a registry of its own: two servers in one process do not meet.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	problems *prometheus.CounterVec
	locks    lockMetrics
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_http_requests_total", Help: "Requests answered.",
		}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "holdfast_http_request_seconds", Help: "Time to the answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route", "method"}),
		problems: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_http_problems_total", Help: "Problems answered by handlers, by type.",
		}, []string{"type"}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.problems,
		&probe{server: s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.Decisions != nil {
		m.registry.MustRegister(s.Decisions.seconds)
	}
	if s.EnvoyCalls != nil {
		m.registry.MustRegister(s.EnvoyCalls.seconds)
	}
	if s.LimitCalls != nil {
		s.LimitCalls.register(m.registry)
	}
	if s.Limits != nil {
		m.register("gauge", "holdfast_limit_rules", "Rules of limits.", func() int64 { return int64(s.Limits.Rules().Len()) })
		m.register("gauge", "holdfast_limit_processes", "Processes that share the limits, as the store knew last; 0 if it was never asked.", func() int64 { return int64(s.Limits.Live()) })
		m.register("gauge", "holdfast_limit_circuit_open", "1 while the store is not asked because it did not answer: each rule's policy decides.", func() int64 {
			if s.Limits.CircuitOpen() {
				return 1
			}
			return 0
		})
	}
	m.register("gauge", "holdfast_http_in_flight", "Requests worked on now.", func() int64 { return int64(len(s.slots)) })
	m.locks = newLockMetrics(m.registry, s)
	m.register("gauge", "holdfast_lock_requests_in_flight", "Acquisitions worked on now, or standing in line.", func() int64 { return int64(len(s.line)) })
	m.register("gauge", "holdfast_event_streams", "Event streams open now.", func() int64 { return int64(s.hub.watchers()) })
	for _, kind := range problemKinds() {
		m.problems.WithLabelValues(kind) // from the start: the step from nothing to 1 is no increase
	}
	m.registerSales(s.Sales.Stats)
	m.registerPayments(s.Payments.Stats)
	return m
}

func (m *metrics) registerSales(sales func() flashsale.Stats) {
	for name, c := range map[string]struct {
		help string
		fn   func() int64
	}{
		"holds_total":            {"Holds given.", func() int64 { return sales().Held }},
		"holds_replayed_total":   {"Holds answered again from the stored answer.", func() int64 { return sales().Replayed }},
		"sold_out_total":         {"Requests refused because everything was sold or held.", func() int64 { return sales().SoldOut }},
		"sold_out_mark_total":    {"Of those, answered from memory.", func() int64 { return sales().SoldOutFromMark }},
		"limited_total":          {"Requests refused by a buyer's limit.", func() int64 { return sales().Limited }},
		"holds_released_total":   {"Holds given back.", func() int64 { return sales().Released }},
		"holds_expired_total":    {"Holds that expired.", func() int64 { return sales().Expired }},
		"orders_confirmed_total": {"Orders made.", func() int64 { return sales().Confirmed }},
		"orders_cancelled_total": {"Orders cancelled because the capture was refused.", func() int64 { return sales().Cancelled }},
		"permits_mended_total":   {"Permits that did not agree with SQL and were mended.", func() int64 { return sales().Mended }},
		"gates_rebuilt_total":    {"Gates built from SQL.", func() int64 { return sales().Rebuilt }},
	} {
		m.register("counter", "holdfast_sale_"+name, c.help, c.fn)
	}
	m.register("gauge", "holdfast_sale_holds_waiting", "Holds that wait for a transaction that takes them along.",
		func() int64 { return sales().Waiting })
}

func (m *metrics) registerPayments(paid func() payment.Stats) {
	for name, fn := range map[string]func() int64{
		"accepted": func() int64 { return paid().Accepted }, "captured": func() int64 { return paid().Captured },
		"voided": func() int64 { return paid().Voided }, "refunded": func() int64 { return paid().Refunded },
		"failed": func() int64 { return paid().Failed }, "retried": func() int64 { return paid().Retried },
	} {
		m.register("counter", "holdfast_payments_"+name+"_total", "Payments "+name+" by this process.", fn)
	}
	m.register("gauge", "holdfast_payments_waiting", "Payments that wait for a transaction that takes them along.",
		func() int64 { return paid().Waiting })
}

// register adds a number that is read when it is asked for.
func (m *metrics) register(kind, name, help string, fn func() int64) {
	read := func() float64 { return float64(fn()) }
	if kind == "gauge" {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
		return
	}
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, read))
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}
