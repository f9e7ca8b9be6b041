package drill

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	recoverWithin = 5 * time.Second // until every server gives answers again
	probeEvery    = 100 * time.Millisecond
)

// firstSuccesses is when each server first gave an answer again, 0 for never (in twice the time
// that is allowed). The answer is that of a hold which was given before: it needs the store and
// the database, and says whether they know of that hold.
func (r *run) firstSuccesses(ctx context.Context) []int64 {
	ctx, cancel := context.WithTimeout(ctx, 2*recoverWithin)
	defer cancel()
	servers := r.fleet.addresses()
	first := make([]int64, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		wg.Go(func() { first[i] = r.firstSuccess(ctx, server) })
	}
	wg.Wait()
	return first
}

// firstSuccess asks a server again and again. A question that is not answered does not keep the
// next one back.
func (r *run) firstSuccess(ctx context.Context, server string) int64 {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := make(chan int64, 1)
	var wg sync.WaitGroup
	defer wg.Wait() // after cancel
	defer cancel()
	for n := 0; ; n++ {
		if k := r.record.lateHold(n); k != nil {
			wg.Go(func() {
				if a := r.client.probe(ctx, server, k); a.err == nil && a.status == http.StatusCreated {
					select {
					case found <- a.got.UnixMicro():
					default:
					}
				}
			})
		}
		select {
		case at := <-found:
			return at
		case <-ctx.Done():
			return 0
		case <-time.After(probeEvery):
		}
	}
}

// recovery is how long after the outage the last server gave answers again, in seconds; below
// zero for never.
func (o outage) recovery() float64 {
	if len(o.Success) == 0 || slices.Min(o.Success) == 0 {
		return -1
	}
	return seconds(max(0, slices.Max(o.Success)-o.Up))
}

func seconds(us int64) float64 { return float64(us) / 1e6 }

// recoveredByThemselves: when what was harmed is back, every server works again soon, and nobody
// had to help.
func recoveredByThemselves(e *evidence) (wrong findings, looked string) {
	slowest := 0.0
	for _, o := range e.Outages {
		switch took := o.recovery(); {
		case len(o.Success) != e.Counts["servers"]:
			wrong.add("after %s only %d servers were asked", o.name(), len(o.Success))
		case took < 0:
			wrong.add("after %s a server gave no answer for %s", o.name(), 2*recoverWithin)
		case took > recoverWithin.Seconds():
			wrong.add("after %s a server gave no answer for %.2f s", o.name(), took)
		default:
			slowest = max(slowest, took)
		}
	}
	return wrong, fmt.Sprintf("after %d faults every server gave answers again, at most %.2f s later", len(e.Outages), slowest)
}
