package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// LockOptions of Lock. The zero value is a drill on the embedded engine that takes less than 40 s.
type LockOptions struct {
	Store    string   // one of LockStores; default: file: behind one server
	Rounds   int      // 1..10,000; default 6
	Holders  int      // processes, 4..64; default 12
	Faults   []string // of the store, some of them by name; none: all that can happen here
	Seed     uint64   // of faults, moments and what holders do; 0: a random one
	Binary   string   // the program to judge; default: this one
	Progress io.Writer
}

// LockStores are the stores that LockOptions.Store can name.
func LockStores() []string {
	return []string{lockFile, lockRedis, lockRedisB, lockReplica, lockValkey, lockReplicaV, ownNodes}
}

// LockFigures are what a lock drill has measured and done.
type LockFigures struct {
	Seconds  float64        `json:"seconds"`
	Rounds   int            `json:"rounds"`
	Leases   int            `json:"leases"`   // that holders had
	Accepted int            `json:"accepted"` // writes
	Late     int            `json:"late"`     // writes that the guards refused
	Lost     int            `json:"lost"`     // leases whose holders were told that they had ended
	Deadline int            `json:"deadline"` // waits that ended with their own deadline
	Together int            `json:"together"` // leases that were given while another one of the name was held, as they may
	Judged   int            `json:"judged"`   // rounds whose locks were judged by themselves, not only what they guard
	Twice    int            `json:"twice"`    // leases that were given while another holder believed to have the name, because the store forgot
	Paused   int            `json:"paused"`   // holders, past their leases
	Killed   int            `json:"killed"`   // holders and waiters
	Faults   map[string]int `json:"faults"`
	Dealt    []DealtLock    `json:"dealt"`
	Skipped  []SkippedFault `json:"skipped"`
	WaitP50  float64        `json:"wait_p50_ms"`
	WaitMax  float64        `json:"wait_max_ms"`
}

// DealtLock is what the seed has decided about a round.
type DealtLock struct {
	Holder string `json:"holder"` // what happens to holders
	Store  string `json:"store"`  // what happens to the store
	Dice   uint64 `json:"dice"`
}

// locking is one lock drill.
type locking struct {
	LockOptions
	*site
	rounds []plannedLock
	kinds  int // of the store's faults in the deck

	figures                                                               LockFigures
	waits                                                                 []float64
	read                                                                  map[string]int64 // rows of the table, and bytes of files, that were looked at already
	last                                                                  map[string]written
	tokens                                                                map[string]int64 // the largest of earlier rounds, by name
	stale, repeated, apart, shares, order, waiting, told, cause, happened findings
}

// Lock runs the lock drill: many processes that lease a few names and write to what the names guard,
// while they are stopped and killed and their store is harmed. An error means that there is no verdict.
func Lock(ctx context.Context, o LockOptions) (report Report, err error) {
	d, err := newLocking(o)
	if err != nil {
		return report, err
	}
	return d.run(ctx, d, Report{Drill: "lock", Seed: d.Seed})
}

// newLocking checks the options.
func newLocking(o LockOptions) (_ *locking, err error) {
	o.Rounds, o.Holders, o.Seed = orElse(o.Rounds, 6), orElse(o.Holders, 12), orRandom(o.Seed)
	at, err := newSite("lock", o.Store, LockStores(), o.Binary, o.Progress)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(inRange(o.Rounds, 1, 10_000, "rounds"), inRange(o.Holders, 4, 64, "holders")); err != nil {
		return nil, err
	}
	if o.Faults, err = knownFaults(o.Faults, lockFaultNames()); err != nil {
		return nil, err
	}
	return &locking{LockOptions: o, site: at, read: map[string]int64{}, last: map[string]written{}, tokens: map[string]int64{}}, nil
}

// prepare deals the rounds.
func (d *locking) prepare() (rounds int, err error) {
	if err := os.Mkdir(d.files(), 0o700); err != nil {
		return 0, fmt.Errorf("drill: %w", err)
	}
	d.progress.say("lock drill: %s, %d processes, %d rounds, seed %d", d.store, d.Holders, d.Rounds, d.Seed)
	cards, skipped, err := dealt(d.Faults, lockFaultNames(), d.engine.fault)
	if err != nil {
		return 0, err
	}
	d.kinds, d.rounds = len(cards), d.plan(cards)
	d.figures = LockFigures{Faults: map[string]int{}, Dealt: []DealtLock{}, Skipped: skipped}
	return len(d.rounds), nil
}

// files is where the guarded files are.
func (d *locking) files() string { return filepath.Join(d.place.disk(), "files") }

// harm counts what is wrong, but for storms that did not happen.
func (d *locking) harm() int {
	return len(d.stale) + len(d.repeated) + len(d.apart) + len(d.shares) + len(d.order) + len(d.waiting) + len(d.told) + len(d.cause)
}

// judge is the verdict over all rounds.
func (d *locking) judge() (checks []Check, verdict string) {
	d.minima()
	f := d.figures
	return verdictOf([]judged{
		{"no-stale-write", d.stale, fmt.Sprintf("%d writes in the order of acceptance: tokens never go back", f.Accepted)},
		{"refused-with-cause", d.cause, fmt.Sprintf("%d late writes were refused, each after one with a larger token", f.Late)},
		{"tokens-never-repeat", d.repeated, fmt.Sprintf("%d leases, each with a token of its own", f.Leases)},
		{"linearizable", d.apart, fmt.Sprintf("in %d of %d rounds: leases of a name one after the other, each until its holder knew of its end; in the others the store forgot, as its class may", f.Judged, len(f.Dealt))},
		{"shares-kept", d.shares, fmt.Sprintf("%d leases began beside others: never one held alone beside another, never more permits than there are", f.Together)},
		{"first-come-first-served", d.order, fmt.Sprintf("nobody who came more than %s later was served first", fifoTolerance)},
		{"waits-end", d.waiting, fmt.Sprintf("every live waiter got the lock or its own deadline (%d did), and all went on after each fault", f.Deadline)},
		{"answers", d.told, "every answer was one that the package names; every process ended cleanly"},
		{"storm-happened", d.happened, fmt.Sprintf("%d holders stopped past their leases, %d holders and waiters killed, faults of the store: %v", f.Paused, f.Killed, f.Faults)},
	})
}

// minima: a drill without a storm proves nothing.
func (d *locking) minima() {
	if d.harm() > 0 {
		return
	}
	dealt := map[string]int{}
	for _, p := range d.rounds {
		dealt[p.holder]++
		dealt[p.store.name]++
	}
	if d.figures.Paused < dealt[pauseHolder] {
		d.happened.add("%d of %d holders were stopped past their leases", d.figures.Paused, dealt[pauseHolder])
	}
	if d.figures.Late < d.figures.Paused {
		d.happened.add("%d holders were stopped past their leases, and only %d late writes were refused", d.figures.Paused, d.figures.Late)
	}
	if least := dealt[killHolder] + dealt[killWaiter]; d.figures.Killed < least {
		d.happened.add("%d of %d holders and waiters were killed", d.figures.Killed, least)
	}
	if d.figures.Judged > 2 && d.figures.Together == 0 { // in a round or two that is chance
		d.happened.add("no lease was ever shared")
	}
	if least := d.Rounds * d.Holders; d.figures.Leases < least {
		d.happened.add("%d leases, the storm should have had %d", d.figures.Leases, least)
	}
	for name, n := range dealt {
		if name != noFault && slices.Contains(lockFaultNames(), name) && d.figures.Faults[name] < n {
			d.happened.add("%s happened %d of %d times", name, d.figures.Faults[name], n)
		}
	}
}

func (d *locking) measured() any {
	f := d.figures
	f.Rounds = len(f.Dealt)
	f.Seconds = rounded(time.Since(d.began).Seconds())
	f.WaitP50, f.WaitMax = middleAndMost(d.waits)
	f.WaitP50, f.WaitMax = rounded(f.WaitP50), rounded(f.WaitMax)
	return f
}
