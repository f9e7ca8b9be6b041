package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// LimitOptions of Limit. The zero value is a drill on the embedded engine that takes less than 40 s.
type LimitOptions struct {
	Store    string   // one of LimitStores; default: file: behind one server
	Rounds   int      // 1..10,000; default 6
	Callers  int      // processes, 2..32; default 6
	Faults   []string // of the store, some of them by name; none: all that can happen here
	Seed     uint64   // of faults, moments and what callers ask; 0: a random one
	Binary   string   // the program to judge; default: this one
	Progress io.Writer
}

// LimitStores are the stores that LimitOptions.Store can name.
func LimitStores() []string {
	return []string{lockFile, lockRedis, lockRedisB, lockValkey, ownNodes}
}

// LimitFigures are what a limit drill has measured and done.
type LimitFigures struct {
	Seconds   float64        `json:"seconds"`
	Rounds    int            `json:"rounds"`
	Asked     int            `json:"asked"`    // decisions that callers got
	Admitted  int            `json:"admitted"` // of them, by the store
	Refused   int            `json:"refused"`  // of them, by the store
	Policy    int            `json:"policy"`   // of them, without the store
	Shared    int            `json:"shared"`   // admitted without the store, by parts of processes that knew of all
	Opened    int            `json:"opened"`   // answers without the store of the rule that is open then
	Shut      int            `json:"shut"`     // and of the one that is closed
	Unknown   int            `json:"unknown"`  // answers that did not come
	Slots     int            `json:"slots"`    // that were held
	Pairs     int            `json:"pairs"`    // calls of two rules that one refused
	Repeats   int            `json:"repeats"`  // reservations that were made again
	Returned  int            `json:"returned"` // callers that came back when they were told, or a little before
	Paused    int            `json:"paused"`   // callers, past the leases of their slots
	Killed    int            `json:"killed"`   // callers with slots
	Faults    map[string]int `json:"faults"`
	Dealt     []DealtLimit   `json:"dealt"`
	Skipped   []SkippedFault `json:"skipped"`
	CalmP50   float64        `json:"calm_p50_ms"` // of an answer, before faults
	CalmP99   float64        `json:"calm_p99_ms"`
	RunP99    float64        `json:"run_p99_ms"`    // over all rounds, faults included
	FirstP50  float64        `json:"first_p50_ms"`  // of a process' first calls without the store
	TurnedP50 float64        `json:"turned_p50_ms"` // of its later ones
	TurnedP99 float64        `json:"turned_p99_ms"`
}

// DealtLimit is what the seed has decided about a round.
type DealtLimit struct {
	Caller string `json:"caller"` // what happens to callers
	Store  string `json:"store"`  // what happens to the store
	Dice   uint64 `json:"dice"`
}

// limiting is one limit drill.
type limiting struct {
	LimitOptions
	*site
	rounds []plannedLimit

	figures                                                 LimitFigures
	calm, run, first, turned                                []time.Duration
	bounds, shares, policies, parts, once, back, told, goes findings
	answers, happened                                       findings
}

// Limit runs the limit drill: processes that ask the rules of one file, all algorithms at once and each process at
// its own pace, while they are stopped and killed and the store is harmed. An error means that there is no verdict.
func Limit(ctx context.Context, o LimitOptions) (report Report, err error) {
	d, err := newLimiting(o)
	if err != nil {
		return report, err
	}
	return d.site.run(ctx, d, Report{Drill: "limit", Seed: d.Seed})
}

// newLimiting checks the options.
func newLimiting(o LimitOptions) (_ *limiting, err error) {
	o.Rounds, o.Callers, o.Seed = orElse(o.Rounds, 6), orElse(o.Callers, 6), orRandom(o.Seed)
	at, err := newSite("limit", o.Store, LimitStores(), o.Binary, o.Progress)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(inRange(o.Rounds, 1, 10_000, "rounds"), inRange(o.Callers, 2, 32, "callers")); err != nil {
		return nil, err
	}
	if o.Faults, err = knownFaults(o.Faults, limitFaultNames()); err != nil {
		return nil, err
	}
	at.rules = limitFile(limitRules)
	return &limiting{LimitOptions: o, site: at}, nil
}

// prepare deals the rounds.
func (d *limiting) prepare() (rounds int, err error) {
	d.progress.say("limit drill: %s, %d processes, %d rounds, seed %d", d.store, d.Callers, d.Rounds, d.Seed)
	cards, skipped, err := dealt(d.Faults, limitFaultNames(), d.fault)
	if err != nil {
		return 0, err
	}
	d.rounds = d.plan(cards)
	d.figures = LimitFigures{Faults: map[string]int{}, Dealt: []DealtLimit{}, Skipped: skipped}
	return len(d.rounds), nil
}

// direct says whether callers decide by the library; otherwise a server does it for them.
func (d *limiting) direct() bool { return d.store != lockFile }

// harm counts what is wrong, but for storms that did not happen.
func (d *limiting) harm() int {
	return len(d.bounds) + len(d.shares) + len(d.policies) + len(d.parts) + len(d.once) + len(d.back) + len(d.told) + len(d.goes) + len(d.answers)
}

// judge is the verdict over all rounds.
func (d *limiting) judge() (checks []Check, verdict string) {
	late, looked := d.latency()
	d.minima()
	f := d.figures
	return verdictOf([]judged{
		{"bounds-kept", d.bounds, fmt.Sprintf("%d calls were admitted and %d slots given: no interval has more than its rule's bound", f.Admitted, f.Slots)},
		{"all-or-nothing", d.parts, fmt.Sprintf("of %d calls that one of two rules refused neither counted a unit", f.Pairs)},
		{"reserved-once", d.once, fmt.Sprintf("%d reservations were made again and counted once", f.Repeats)},
		{"slots-come-back", d.back, fmt.Sprintf("after %d holders were killed and %d stopped all slots were had by others", f.Killed, f.Paused)},
		{"told-when", d.told, fmt.Sprintf("%d who came back alone, when they were told or before: refused before, admitted then", f.Returned)},
		{"shares-kept", d.shares, fmt.Sprintf("%d calls admitted without the store by processes that knew of all: together no more than each limit", f.Shared)},
		{"policies", d.policies, fmt.Sprintf("without the store open admitted all of %d calls, closed refused all of %d", f.Opened, f.Shut)},
		{"answers-in-time", late, looked},
		{"goes-on", d.goes, "the store decides for every process after each fault, and each rule admits"},
		{"answers", d.answers, "every answer was one that the package names; every process ended cleanly"},
		{"storm-happened", d.happened, fmt.Sprintf("%d callers killed, %d stopped, faults of the store: %v", f.Killed, f.Paused, f.Faults)},
	})
}

// minima: a drill without a storm proves nothing.
func (d *limiting) minima() {
	if d.harm() > 0 {
		return
	}
	happened, harmed := map[string]int{}, 0
	for _, p := range d.rounds {
		happened[p.store.name]++
		if p.store.harms {
			harmed++
		}
	}
	f := d.figures
	for name, n := range happened {
		if f.Faults[name] < n {
			d.happened.add("%s happened %d of %d times", name, f.Faults[name], n)
		}
	}
	if n := f.Killed + f.Paused; n < d.Rounds {
		d.happened.add("%d of %d callers were killed or stopped", n, d.Rounds)
	}
	without := f.Policy
	if !d.direct() {
		without = f.Unknown
	}
	if d.direct() && harmed > 0 && f.Shared == 0 {
		d.happened.add("no process admitted its part of a limit")
	}
	if d.class == "C" && harmed > 0 && (f.Opened == 0 || f.Shut == 0) {
		d.happened.add("without the store %d calls were decided by open and %d by closed", f.Opened, f.Shut)
	}
	for _, least := range []struct {
		what      string
		n, wanted int
	}{
		{"calls were admitted", f.Admitted, d.Rounds * d.Callers * 10},
		{"calls were refused", f.Refused, d.Rounds * d.Callers * 10},
		{"slots were held", f.Slots, d.Rounds * d.Callers},
		{"calls of two rules were refused by one", f.Pairs, d.Rounds * 2},
		{"reservations were made again", f.Repeats, d.Rounds * 2},
		{"callers came back when they were told", f.Returned, d.Rounds * d.Callers},
		{"calls met a store that did not answer", without, harmed * d.Callers},
	} {
		if least.n < least.wanted {
			d.happened.add("only %d %s, the storm should have had %d", least.n, least.what, least.wanted)
		}
	}
}

func (d *limiting) measured() any {
	f := d.figures
	f.Rounds = len(f.Dealt)
	f.Seconds = rounded(time.Since(d.began).Seconds())
	f.CalmP50, f.CalmP99 = percentile(d.calm, 0.5), percentile(d.calm, 0.99)
	f.RunP99, f.FirstP50 = percentile(d.run, 0.99), percentile(d.first, 0.5)
	f.TurnedP50, f.TurnedP99 = percentile(d.turned, 0.5), percentile(d.turned, 0.99)
	return f
}

// rulesFile is where the rules stand.
func (s *site) rulesFile() string { return filepath.Join(s.place.disk(), "limits.yaml") }

// writeRules writes them there, if there are any.
func (s *site) writeRules() error {
	if s.rules == "" {
		return nil
	}
	if err := os.WriteFile(s.rulesFile(), []byte(s.rules), 0o600); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	return nil
}
