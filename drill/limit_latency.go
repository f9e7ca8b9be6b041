package drill

import (
	"fmt"
	"time"
)

const (
	addedTime = 2 * time.Millisecond // what a call without the store takes (median), and adds to the 99th percentile
	firstOnes = 3                    // that a process waits for in a row before it does without
	inFlight  = 8                    // that it may have on their way then

	// Fewer are not judged: a store that is back at once, and gone again, leaves only first ones.
	enoughForMedian, enoughForP99 = 30, 300
)

// timeout is what a call waits for a store at most: what the package does by default; longer where a decision is a write
// to disks that others use too.
func (s *site) timeout() time.Duration {
	if s.class == "C" {
		return 25 * time.Millisecond
	}
	return 100 * time.Millisecond
}

// timed sorts the times of a round's answers: before the faults, all, and of those without the store the first and the
// later ones of each process. What a process did not run for does not count.
func (r *limitRound) timed() {
	d := r.d
	for _, p := range r.players {
		without := 0
		for _, e := range p.events {
			if !e.decision() || e.Sent < r.began.UnixNano() || stalledIn(p, e.Sent, e.At) {
				continue
			}
			took := time.Duration(e.Took)
			d.run = append(d.run, took)
			switch at := time.Unix(0, e.At); {
			case at.Before(r.window.from):
				d.calm = append(d.calm, took)
			case !r.store.harms || time.Unix(0, e.Sent).Before(r.window.from) || at.After(r.window.to):
			case e.Err == "" && !e.byPolicy():
				without = 0 // the store was back for a moment: who fails now is the first in a row again
			case !e.byPolicy():
			case without < firstOnes:
				without++
				d.first = append(d.first, took)
			case without < firstOnes+inFlight:
				without++
			default:
				d.turned = append(d.turned, took)
			}
		}
	}
}

// latency: a store that is gone costs the first calls of a process its timeout, and all others nothing.
func (d *limiting) latency() (wrong findings, looked string) {
	if !d.direct() {
		return nil, "not looked at: callers ask a server, which is what was harmed"
	}
	if len(d.first) == 0 {
		return nil, "no store was silent"
	}
	p99, calm := percentile(d.turned, 0.99), percentile(d.calm, 0.99)
	first, turned := percentile(d.first, 0.5), percentile(d.turned, 0.5)
	most := func(t time.Duration) float64 { return float64(t.Microseconds()) / 1000 }
	if first > most(d.timeout()+addedTime)+calm {
		wrong.add("the first calls without the store took %.2f ms (median), not %s", first, d.timeout())
	}
	if len(d.turned) >= enoughForMedian && turned > most(addedTime) {
		wrong.add("later calls without the store took %.2f ms (median), not up to %s", turned, addedTime)
	}
	if len(d.turned) >= enoughForP99 && p99-calm > most(addedTime) {
		wrong.add("p99 of later calls without the store is %.2f ms, before faults p99 was %.2f ms", p99, calm)
	}
	return wrong, fmt.Sprintf("without the store: the first calls of each process %.2f ms (median), %d later ones %.3f ms, p99 %.2f ms; before faults p99 was %.2f ms",
		first, len(d.turned), turned, p99, calm)
}
