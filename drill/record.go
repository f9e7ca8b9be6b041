package drill

import (
	"fmt"
	"math"
	"slices"
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
	if a.err != nil {
		r.counts["no answer"]++
		return
	}
	r.counts[fmt.Sprintf("answer %d %s", a.status, orPlain(a.problem))]++
	if k == nil {
		return
	}
	if k.Kind == kindHold {
		r.asked = a.got
	}
	if a.status == 201 || a.status == 202 {
		r.latencies[k.Kind] = append(r.latencies[k.Kind], a.got.Sub(a.sent))
	}
}

func orPlain(problem string) string {
	if problem == "" {
		return "ok"
	}
	return problem
}

// gave notes the first success of a key.
func (r *record) gave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered++
}

func (r *record) given() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answered
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

// Figures are measured by the clients; they judge nothing.
type Figures struct {
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
	Restarts       []float64      `json:"restart_seconds"` // from each kill until that server was ready
	Answers        map[string]int `json:"answers"`
	Storm          map[string]int `json:"storm"`
	ProviderFaults map[string]int `json:"provider_faults"`
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
