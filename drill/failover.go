package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// FailoverOptions of Failover. The zero value is a drill that takes less than a minute.
type FailoverOptions struct {
	Rounds   int       // one fault each, 1..10,000; default 3
	Nodes    int       // 3 or 5; default 3
	Faults   []string  // some of them by name; none: all that can happen here
	Net      string    // namespaces, proxies, or auto: namespaces where they can be had; default auto
	Against  string    // sentinel: the same storm on an engine with replicas and sentinels too; empty: nothing
	Seed     uint64    // of faults, moments and commands; 0: a random one
	Engine   string    // program; default: the one that nodes find themselves
	Binary   string    // the program to judge; default: this one
	Apart    string    // how the drill calls itself, in namespaces of its own: the mount namespace outside
	Progress io.Writer // a line for each phase; nil: none
}

// What FailoverOptions name.
const (
	netAuto         = "auto"
	netNamespaces   = "namespaces"
	netProxies      = "proxies"
	againstSentinel = "sentinel"
)

// FailoverFigures are measured by the clients; they judge nothing.
type FailoverFigures struct {
	Net      string         `json:"net"`
	Seconds  float64        `json:"seconds"`
	Longest  float64        `json:"longest_round_s"`
	Rounds   int            `json:"rounds"`
	Commands int            `json:"commands"` // with an answer
	Unknown  int            `json:"unknown"`  // without one: they may have been done
	Refused  int            `json:"refused"`  // with an error: they were not
	Messages int            `json:"messages"` // that subscribers heard
	Cached   int            `json:"cached"`   // reads from clients' own caches
	Added    int            `json:"added"`    // elements and entries whose addition was acknowledged
	Missing  int            `json:"missing"`  // of them: neither there nor taken
	Faults   map[string]int `json:"faults"`
	Dealt    []DealtFault   `json:"dealt"`
	Skipped  []SkippedFault `json:"skipped"`
	// From the fault to the first acknowledged write of any client, where the leader was hit.
	FirstWriteP50 float64 `json:"first_write_p50_ms"`
	FirstWriteMax float64 `json:"first_write_max_ms"`
	// The same where the leader was killed, with its engine.
	KilledP50 float64 `json:"first_write_after_kill_p50_ms"`
	KilledMax float64 `json:"first_write_after_kill_max_ms"`
}

// DealtFault is a round's fault, which the seed decides, and how long the round took.
type DealtFault struct {
	Fault      string  `json:"fault"`
	HeldMS     int64   `json:"held_ms"`
	Dice       uint64  `json:"dice"`
	FirstWrite float64 `json:"first_write_ms,omitempty"` // where the fault is the leader's
	Seconds    float64 `json:"seconds"`
}

// SkippedFault is one that cannot happen here.
type SkippedFault struct {
	Fault  string `json:"fault"`
	Reason string `json:"reason"`
}

// failover is one drill.
type failover struct {
	FailoverOptions
	progress  *progress
	began     time.Time
	place     *place
	nursery   *nursery
	fleet     *nodeFleet
	storm     *nodeStorm // the round's
	rounds    []plannedRound
	kinds     int  // of faults in the deck
	sentinels bool // it runs on the other set

	skew                    string // library; empty: none
	noSkew, noWatch, noDisk string // why not
	skipped                 []SkippedFault

	figures      FailoverFigures
	gaps, killed []float64
	lost, order, twice, apartness, expiry,
	happened findings
	broken bool // the nodes do not serve any more: further rounds would say nothing
}

// Failover runs the failover drill: real nodes with real engines, in networks of their own or with their links through
// proxies, clients with mixed commands, and in each round a fault that the seed deals. What clients
// were told is compared with what is there afterwards. An error means that there is no verdict.
func Failover(ctx context.Context, o FailoverOptions) (Report, error) {
	f, err := newFailover(o)
	if err != nil {
		return Report{}, err
	}
	f.noDisk = "no mount namespace for a disk that is nobody else's"
	if o.Apart == "" {
		report, why, err := f.apart(ctx)
		if err != nil || why == nil {
			return report, err
		}
		if f.Net == netNamespaces {
			return Report{}, fmt.Errorf("drill: --net namespaces: %w", why)
		}
		f.Net, f.noDisk = netProxies, why.Error()
	} else if err := f.settle(o.Apart); err != nil {
		return Report{}, err
	} else {
		f.noDisk = ""
	}
	return f.drill(ctx)
}

// newFailover checks the options.
func newFailover(o FailoverOptions) (*failover, error) {
	o.Rounds, o.Nodes = orElse(o.Rounds, 3), orElse(o.Nodes, 3)
	if o.Seed == 0 {
		o.Seed = 1 + rand.Uint64N(maxSeed-1)
	}
	if o.Net == "" {
		o.Net = netAuto
	}
	o.Faults = slices.DeleteFunc(slices.Clone(o.Faults), func(name string) bool { return name == "" })
	switch {
	case o.Rounds < 1 || o.Rounds > 10_000:
		return nil, fmt.Errorf("drill: %d rounds is not in 1..10000", o.Rounds)
	case o.Nodes != 3 && o.Nodes != 5:
		return nil, fmt.Errorf("drill: %d nodes; it is 3 or 5", o.Nodes)
	case o.Net != netAuto && o.Net != netNamespaces && o.Net != netProxies:
		return nil, fmt.Errorf("drill: the net is %s, %s or %s", netAuto, netNamespaces, netProxies)
	case o.Against != "" && o.Against != againstSentinel:
		return nil, fmt.Errorf("drill: it can be compared with %s", againstSentinel)
	}
	for _, name := range o.Faults {
		if !slices.Contains(faultNames(), name) {
			return nil, fmt.Errorf("drill: faults are %s", strings.Join(faultNames(), ", "))
		}
	}
	if o.Binary == "" {
		var err error
		if o.Binary, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("drill: %w", err)
		}
	}
	return &failover{FailoverOptions: o, progress: &progress{out: o.Progress, began: time.Now()}}, nil
}

// drill runs the storm on the nodes, and where that was asked for on the other set.
func (f *failover) drill(ctx context.Context) (Report, error) {
	report := Report{Drill: "failover", Class: "A", Seed: f.Seed}
	if err := f.run(ctx, &report); err != nil || f.Against == "" {
		return report, err
	}
	other := &failover{FailoverOptions: f.FailoverOptions, progress: f.progress, sentinels: true, noDisk: f.noDisk}
	against := Report{Drill: "failover against " + f.Against, Class: "C", Seed: f.Seed}
	if err := other.run(ctx, &against); err != nil {
		return report, fmt.Errorf("the storm on %s: %w", f.Against, err)
	}
	report.Against = &against
	return report, nil
}

// prepare finds out what can happen here, and deals the rounds.
func (f *failover) prepare() error {
	if f.Net == netAuto {
		f.Net = f.chooseNet()
	}
	f.noSkew, f.noWatch = "the other set", "the other set"
	if !f.sentinels {
		var err error
		f.noSkew, f.noWatch = "", ""
		if f.skew, err = buildSkew(f.place.dir); err != nil {
			f.noSkew = err.Error()
		}
		if err := canWatch(f.Binary, f.nursery, filepath.Join(f.place.dir, "watch.log")); err != nil {
			f.noWatch = err.Error()
		}
	}
	cards, err := f.cards()
	if err != nil {
		return err
	}
	f.kinds, f.rounds = len(cards), f.plan(cards)
	f.figures = FailoverFigures{Net: f.Net, Faults: map[string]int{}, Skipped: f.skipped, Dealt: []DealtFault{}}
	return nil
}

// chooseNet tries whether nodes can have networks of their own.
func (f *failover) chooseNet() string {
	if f.noDisk != "" {
		return netProxies
	}
	ns, err := newNamespaces(0)
	if err != nil {
		return netProxies
	}
	ns.close()
	return netNamespaces
}

// cards are the faults that were asked for and can happen.
func (f *failover) cards() (cards []nodeFault, err error) {
	f.skipped = []SkippedFault{}
	for _, fault := range nodeFaults {
		if len(f.Faults) > 0 && !slices.Contains(f.Faults, fault.name) {
			continue
		}
		why := ""
		switch {
		case f.Against != "" && !fault.also:
			why = "an engine with replicas and sentinels has nothing like it"
		case fault.cannot != nil:
			why = fault.cannot(f)
		}
		if why != "" {
			f.skipped = append(f.skipped, SkippedFault{fault.name, why})
			continue
		}
		cards = append(cards, fault)
	}
	if len(cards) == 0 {
		return nil, fmt.Errorf("drill: none of these faults can happen here: %v", f.skipped)
	}
	return cards, nil
}

func (f *failover) run(ctx context.Context, report *Report) (err error) {
	f.began = time.Now()
	if f.place, err = newPlace(ctx, "", ""); err != nil {
		return err
	}
	failed := false
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if failed && f.fleet != nil {
			err = errors.Join(err, f.fleet.keep())
		}
		err = errors.Join(err, f.place.clear(ctx, failed))
	}()
	f.nursery = newNursery()
	defer f.nursery.close()
	if err := f.prepare(); err != nil {
		return err
	}
	f.progress.say("%s: %d nodes, %d rounds, %s, seed %d", report.Drill, f.Nodes, f.Rounds, f.Net, f.Seed)
	if f.fleet, err = newNodeFleet(ctx, f); err != nil {
		return err
	}
	defer f.fleet.close()
	for round, planned := range f.rounds {
		began := time.Now()
		if err := f.round(ctx, round, planned); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			failed = true
			return fmt.Errorf("%w (the evidence is in %s)", err, f.place.dir)
		}
		took := time.Since(began).Seconds()
		f.figures.Dealt[len(f.figures.Dealt)-1].Seconds = took
		f.figures.Longest = max(f.figures.Longest, took)
		if f.broken || f.harm() > 0 && !f.sentinels {
			break // what follows would say it again
		}
	}
	report.Checks, report.Verdict = f.judge()
	report.Figures = f.measured()
	if failed = !report.Passed() && !f.sentinels; failed {
		report.Kept = f.place.dir
		f.fleet.confess()
	}
	f.progress.say("%s", report.Verdict)
	return nil
}

// A round's phases.
const (
	calm    = 800 * time.Millisecond // before the fault
	after   = 800 * time.Millisecond // after it is mended and writes go on
	mending = 20 * time.Second       // within which they have to
)

func (f *failover) round(ctx context.Context, round int, p plannedRound) error {
	f.progress.say("round %d of %d: %s", round+1, f.Rounds, p.fault.name)
	storm := newNodeStorm(f, round)
	f.storm = storm
	defer storm.end()
	f.figures.Dealt = append(f.figures.Dealt, DealtFault{Fault: p.fault.name, HeldMS: p.held.Milliseconds(), Dice: p.dice})
	if err := storm.untilAll(ctx, calm, mending); err != nil {
		return fmt.Errorf("drill: before the fault: %w", err)
	}
	hit, err := p.fault.hit(ctx, f.fleet, rand.New(rand.NewPCG(f.Seed, p.dice)))
	if err != nil {
		return fmt.Errorf("drill: round %d, %s: %w", round+1, p.fault.name, err)
	}
	if !pauseFor(ctx, p.held-time.Since(hit.at)) {
		return ctx.Err()
	}
	if err := hit.mend(ctx); err != nil {
		return fmt.Errorf("drill: mending %s: %w", p.fault.name, err)
	}
	if err := storm.untilAll(ctx, after, mending); err != nil {
		f.lost.add("round %d, %s: writes do not go on: %v", round+1, p.fault.name, err)
	}
	storm.end()
	if hit.happened == "" {
		f.figures.Faults[p.fault.name]++
	} else {
		f.happened.add("round %d: %s did not happen: %s", round+1, p.fault.name, hit.happened)
	}
	if gap, ok := storm.firstWrite(hit); ok && p.fault.leader && !hit.quiet {
		f.gaps = append(f.gaps, gap)
		f.figures.Dealt[len(f.figures.Dealt)-1].FirstWrite = gap
		if strings.HasPrefix(p.fault.name, "kill-leader") && !strings.HasSuffix(p.fault.name, "engine") || p.fault.name == "kill-engine-and-node" {
			f.killed = append(f.killed, gap)
		}
	}
	return f.look(ctx, round, storm)
}

// look compares what the round's clients were told with what is there.
func (f *failover) look(ctx context.Context, round int, s *nodeStorm) error {
	f.figures.Commands += s.count(answered)
	f.figures.Unknown += s.count(unknown)
	f.figures.Refused += s.count(refused)
	messages, cached := s.told()
	f.figures.Messages, f.figures.Cached = f.figures.Messages+messages, f.figures.Cached+cached
	if n := s.count(answered); n < leastCommands {
		f.happened.add("round %d: only %d commands were answered", round+1, n)
	}
	final, err := f.fleet.final(ctx, s)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		f.lost.add("round %d: what is there could not be read: %v", round+1, err)
		f.broken = true
		return nil
	}
	s.judge(round, final, f)
	if f.sentinels {
		return nil // replicas that lag are no fault of theirs
	}
	digests, err := f.fleet.verify(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		f.apartness.add("round %d: %v", round+1, err)
	}
	if len(digests) != f.Nodes {
		f.apartness.add("round %d: %d nodes told their digest", round+1, len(digests))
	}
	return nil
}

// leastCommands is what a round has at least, whatever the machine.
const leastCommands = 200

// harm counts what is wrong, but for storms that did not happen.
func (f *failover) harm() int {
	return len(f.lost) + len(f.order) + len(f.twice) + len(f.expiry) + len(f.apartness)
}

// minima: a drill without a storm proves nothing.
func (f *failover) minima() {
	if f.harm() > 0 {
		return
	}
	if f.Rounds >= f.kinds && len(f.figures.Faults) < f.kinds {
		f.happened.add("only %d kinds of %d faults happened", len(f.figures.Faults), f.kinds)
	}
	if f.Rounds > 2 && f.figures.Unknown == 0 {
		f.happened.add("no command was cut off: the faults were too gentle")
	}
	if least := 20 * len(f.figures.Dealt); f.figures.Messages < least || f.figures.Cached < least {
		f.happened.add("only %d messages were heard and %d reads came from a cache", f.figures.Messages, f.figures.Cached)
	}
}

func (f *failover) judge() (checks []Check, verdict string) {
	f.minima()
	verdict = Pass
	for _, c := range []struct {
		name   string
		wrong  findings
		looked string
	}{
		{"nothing-lost", f.lost, fmt.Sprintf("%d answers; all that they said is there", f.figures.Commands)},
		{"linearizable", f.order, fmt.Sprintf("every key's history has an order that explains all answers, %d of them from clients' caches", f.figures.Cached)},
		{"nothing-twice", f.twice, fmt.Sprintf("no element was popped twice, none is there twice, pairs are equal; %d messages were heard once", f.figures.Messages)},
		{"expired-once", f.expiry, "what had expired never came back"},
		{"engines-equal", f.apartness, "digests at equal offsets, after each round"},
		{"storm-happened", f.happened, fmt.Sprintf("%d faults, %d commands without an answer", len(f.figures.Dealt), f.figures.Unknown)},
	} {
		if c.name == "engines-equal" && f.sentinels {
			continue
		}
		checks = append(checks, Check{Name: c.name, OK: len(c.wrong) == 0, Detail: c.wrong.detail(c.looked)})
		if len(c.wrong) > 0 {
			verdict = Fail
		}
	}
	return checks, verdict
}

func (f *failover) measured() FailoverFigures {
	g := f.figures
	g.Seconds, g.Rounds = time.Since(f.began).Seconds(), len(f.figures.Dealt)
	g.FirstWriteP50, g.FirstWriteMax = middleAndMost(f.gaps)
	g.KilledP50, g.KilledMax = middleAndMost(f.killed)
	return g
}

func middleAndMost(ms []float64) (p50, most float64) {
	if len(ms) == 0 {
		return 0, 0
	}
	slices.Sort(ms)
	return ms[len(ms)/2], ms[len(ms)-1]
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
