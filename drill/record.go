package drill

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// record is what the clients know, as they learn it.
type record struct {
	mu        sync.Mutex
	counts    map[string]int
	keys      []*keyed
	released  map[string]bool
	finals    map[string]paymentTold
	orders    map[string]orderTold
	latencies map[string][]time.Duration
	open      map[string]bool // payments accepted and not seen to their end
	asked     time.Time       // when a new hold was last asked for
	answered  int             // holds and payments that were given
	holds     []*keyed        // that were given, in that order
	answers   int             // of all kinds

	rushBegan, rushEnded time.Time // until as many holds were given as there were units
	rushHolds, rushLeft  int
}

func newRecord() *record {
	return &record{
		counts: map[string]int{}, released: map[string]bool{}, finals: map[string]paymentTold{},
		orders: map[string]orderTold{}, latencies: map[string][]time.Duration{}, open: map[string]bool{},
	}
}

func (r *record) count(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[what]++
}

// rush begins the time until n holds were given.
func (r *record) rush(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rushBegan, r.rushHolds = time.Now(), n-r.counts["holds"]
	r.rushLeft = r.rushHolds
}

// held counts a hold.
func (r *record) held() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts["holds"]++
	if !r.rushBegan.IsZero() && r.rushEnded.IsZero() {
		if r.rushLeft--; r.rushLeft <= 0 {
			r.rushEnded = time.Now()
		}
	}
}

// rushRate is how many holds a second were given in the rush.
func (r *record) rushRate() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.rushEnded.After(r.rushBegan) {
		return 0
	}
	return float64(r.rushHolds) / r.rushEnded.Sub(r.rushBegan).Seconds()
}

func (r *record) key(k *keyed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = append(r.keys, k)
}

// answer counts one answer, and what it means.
func (r *record) answer(k *keyed, a reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.late {
		r.counts[didWait]++
	}
	if a.err != nil {
		r.counts["no answer"]++
		return
	}
	r.counts[fmt.Sprintf("answer %d %s", a.status, orPlain(a.problem))]++
	if a.status == http.StatusServiceUnavailable && !a.again {
		r.counts[didNotSay]++
	}
	r.answers++
	if k != nil && k.Kind == kindHold {
		r.asked = a.got
	}
}

func orPlain(problem string) string {
	if problem == "" {
		return "ok"
	}
	return problem
}

// gave notes the first success of a key, and how long that request took.
func (r *record) gave(k *keyed, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered++
	r.latencies[k.Kind] = append(r.latencies[k.Kind], took)
	if k.Kind == kindHold {
		r.holds = append(r.holds, k)
	}
}

func (r *record) given() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answered
}

// total is how many answers there were, of all kinds.
func (r *record) total() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answers
}

func (r *record) accepted(payment string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[payment] = true
}

func (r *record) ended(p paymentTold) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, p.ID)
	r.finals[p.ID] = p
	r.counts[p.State+" payments"]++
}

func (r *record) pending() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return sorted(r.open)
}

func (r *record) shown(o orderTold) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.orders[o.ID] = o
}

func (r *record) release(hold string, answered bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.released[hold] = r.released[hold] || answered
}

// successes are the keys that were given something.
func (r *record) successes() (keys []*keyed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.keys {
		if _, ok := k.told(); ok {
			keys = append(keys, k)
		}
	}
	return keys
}

// lateHold is a key that was given a hold: the last one, the one before that, and so on; nil when
// there is none yet.
func (r *record) lateHold(back int) *keyed {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.holds) == 0 {
		return nil
	}
	return r.holds[len(r.holds)-1-back%len(r.holds)]
}

// into moves the record into the evidence, when all clients have ended.
func (r *record) into(e *evidence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Counts, e.Keys, e.Released, e.LastAsked = r.counts, r.keys, r.released, r.asked.UnixMicro()
	for _, id := range sorted(r.finals) {
		e.Finals = append(e.Finals, r.finals[id])
	}
	for _, id := range sorted(r.orders) {
		e.Orderings = append(e.Orderings, r.orders[id])
	}
}
