package drill

import (
	"math"
	"slices"
	"strings"
	"time"
)

// SaleFigures are measured by the clients; they judge nothing.
type SaleFigures struct {
	Seconds        float64        `json:"seconds"`       // all of it
	StormSeconds   float64        `json:"storm_seconds"` // from the first buyer to the last unit sold
	Buyers         int            `json:"buyers"`
	Stock          int            `json:"stock"`
	Servers        int            `json:"servers"`
	Sold           int64          `json:"sold"`
	Holds          int            `json:"holds"`            // given, repeats not counted
	RequestsPerSec float64        `json:"requests_per_s"`   // all that were answered during the storm
	HoldsPerSec    float64        `json:"rush_holds_per_s"` // given, until as many were given as there were units
	HoldP50Ms      float64        `json:"hold_p50_ms"`
	HoldP99Ms      float64        `json:"hold_p99_ms"`
	PaymentP50Ms   float64        `json:"payment_p50_ms"` // until it was accepted
	PaymentP99Ms   float64        `json:"payment_p99_ms"`
	YoungRepeats   int            `json:"young_repeats"`   // told to try again, less than a mark's age after the success
	Restarts       []float64      `json:"restart_seconds"` // from each kill until that server was ready
	Outages        []OutageFigure `json:"outages"`         // of every kind, in their order
	Answers        map[string]int `json:"answers"`
	Storm          map[string]int `json:"storm"`
	ProviderFaults map[string]int `json:"provider_faults"`
}

// OutageFigure is one fault that happened.
type OutageFigure struct {
	Fault    string  `json:"fault"`
	InFlight int     `json:"in_flight"`             // requests that it hit
	Seconds  float64 `json:"seconds"`               // until what was harmed was back
	Success  float64 `json:"first_success_seconds"` // from then until every server gave answers; -1: not in time
}

func (r *run) figures(e *evidence) SaleFigures {
	f := SaleFigures{
		Seconds: rounded(time.Since(r.began).Seconds()), StormSeconds: rounded(r.stormed.Seconds()),
		Buyers: r.Buyers, Stock: r.Stock, Servers: r.Servers, Sold: e.Sale.Sold, Holds: e.Counts["holds"],
		HoldP50Ms: percentile(r.record.latencies[kindHold], 0.50), HoldP99Ms: percentile(r.record.latencies[kindHold], 0.99),
		PaymentP50Ms: percentile(r.record.latencies[kindPayment], 0.50), PaymentP99Ms: percentile(r.record.latencies[kindPayment], 0.99),
		Restarts: []float64{}, Outages: []OutageFigure{}, Answers: map[string]int{}, Storm: map[string]int{}, ProviderFaults: e.Dealt,
	}
	for _, k := range e.Keys {
		for _, a := range k.Answers {
			if !a.success() && a.retry() {
				f.YoungRepeats++
			}
		}
	}
	for name, n := range e.Counts {
		if kind, ok := strings.CutPrefix(name, "answer "); ok {
			f.Answers[kind] = n
		} else {
			f.Storm[name] = n
		}
	}
	if r.stormed > 0 {
		f.RequestsPerSec = rounded(float64(r.total) / r.stormed.Seconds())
	}
	f.HoldsPerSec = rounded(r.record.rushRate())
	for _, o := range e.Outages {
		took := rounded(seconds(o.Up - o.Down))
		if o.Fault == FaultKillServer {
			f.Restarts = append(f.Restarts, took)
		}
		f.Outages = append(f.Outages, OutageFigure{o.name(), o.InFlight, took, rounded(o.recovery())})
	}
	return f
}

// percentile of durations, in ms.
func percentile(all []time.Duration, p float64) float64 {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	d := all[min(len(all)-1, int(float64(len(all))*p))]
	return rounded(float64(d.Microseconds()) / 1000)
}

func rounded(f float64) float64 { return math.Round(f*100) / 100 }
