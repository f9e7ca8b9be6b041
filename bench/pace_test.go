package bench

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// pace is how many payments a second come in paceGroup, whatever becomes of them.
const pace = 3000

var paceGroup = group{
	title: "Payments at 3,000 a second", unit: "ms",
	note: "An open loop: a payment comes every third of a millisecond, to the first of 256 connections that is free, and " +
		"waits from then on; one that is told to come later (503) asks again after 10 ms, and its time goes on. The " +
		"times of those that were answered 202, while what was accepted is being settled by the same server.",
	open: func(t *testing.T) (rows []*measure) {
		for _, e := range engines(t) {
			s := e.shop(t)
			var times []time.Duration
			rows = append(rows,
				&measure{name: "99th percentile, " + e.name, run: func(t *testing.T, d time.Duration) float64 {
					times = s.arrivals(t, d)
					return quantile(times, 0.99)
				}},
				&measure{name: "median, " + e.name, run: func(*testing.T, time.Duration) float64 { return quantile(times, 0.5) }})
		}
		return rows
	},
}

// quantile is in ms, rounded up.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64((sorted[int(q*float64(len(sorted)-1))] + time.Millisecond - 1) / time.Millisecond)
}

// arrivals has payments come at the pace for d, and returns how long each took from the moment at
// which it was to come, sorted. It returns when all are settled.
func (s *shop) arrivals(t *testing.T, d time.Duration) []time.Duration {
	holds := s.holds(t, max(1, int(d.Seconds()*pace)))
	before := s.payments.Stats().Captured
	conns := make([]*conn, payers)
	for i := range conns {
		conns[i] = dial(t, s.address)
	}
	times := make([]time.Duration, len(holds))
	due := make(chan int, len(holds))
	began := time.Now()
	at := func(n int) time.Time { return began.Add(time.Duration(n) * time.Second / pace) }
	var all sync.WaitGroup
	for _, c := range conns {
		all.Go(func() {
			for n := range due {
				if err := c.payUntilAccepted(holds[n]); err != nil {
					t.Error(err)
					return
				}
				times[n] = time.Since(at(n))
			}
		})
	}
	for n := range holds {
		time.Sleep(time.Until(at(n)))
		due <- n
	}
	close(due)
	all.Wait()
	for s.payments.Stats().Captured < before+int64(len(holds)) && time.Since(began) < time.Minute {
		time.Sleep(time.Millisecond)
	}
	slices.Sort(times)
	return times
}

func (c *conn) payUntilAccepted(h string) error {
	hold, buyer, _ := strings.Cut(h, " ")
	request := post("/v1/payments", hold, fmt.Sprintf(
		`{"hold":"%s","buyer":"%s","amount":100,"currency":"EUR","source":"tok"}`, hold, buyer))
	for {
		status, body, err := c.ask(request)
		switch {
		case err == nil && status == 202:
			return nil
		case err != nil || status != 503:
			return fmt.Errorf("%d %s: %w", status, body, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
