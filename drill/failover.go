package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"
)

// FailoverOptions of Failover. The zero value is a drill that takes less than a minute.
type FailoverOptions struct {
	Rounds   int       // one fault each, 1..10,000; default 3
	Nodes    int       // 3 or 5; default 3
	Faults   []string  // some of them by name; none: all
	Seed     uint64    // of faults, moments and commands; 0: a random one
	Engine   string    // program; default: the one that nodes find themselves
	Binary   string    // the program to judge; default: this one
	Progress io.Writer // a line for each phase; nil: none
}

// FailoverFigures are measured by the clients; they judge nothing.
type FailoverFigures struct {
	Seconds  float64        `json:"seconds"`
	Rounds   int            `json:"rounds"`
	Commands int            `json:"commands"` // with an answer
	Unknown  int            `json:"unknown"`  // without one: they may have been done
	Refused  int            `json:"refused"`  // with an error: they were not
	Faults   map[string]int `json:"faults"`
	// From the fault to the first acknowledged write of any client, where the leader was hit.
	FirstWriteP50 float64 `json:"first_write_p50_ms"`
	FirstWriteMax float64 `json:"first_write_max_ms"`
}

// failover is one drill.
type failover struct {
	FailoverOptions
	progress *progress
	began    time.Time
	rng      *rand.Rand
	place    *place
	nursery  *nursery
	fleet    *nodeFleet
	faults   *deck[nodeFault]
	kinds    int // of faults in the deck

	figures FailoverFigures
	gaps    []float64
	lost, order, twice, apart, expiry,
	happened findings
	broken bool // the nodes do not serve any more: further rounds would say nothing
}

// Failover runs the failover drill: real nodes with real engines, their links through proxies,
// clients with mixed commands, and in each round a fault that the seed deals. What clients
// were told is compared with what is there afterwards. An error means that there is no verdict.
func Failover(ctx context.Context, o FailoverOptions) (Report, error) {
	o.Rounds, o.Nodes = orElse(o.Rounds, 3), orElse(o.Nodes, 3)
	if o.Seed == 0 {
		o.Seed = 1 + rand.Uint64N(maxSeed-1)
	}
	switch {
	case o.Rounds < 1 || o.Rounds > 10_000:
		return Report{}, fmt.Errorf("drill: %d rounds is not in 1..10000", o.Rounds)
	case o.Nodes != 3 && o.Nodes != 5:
		return Report{}, fmt.Errorf("drill: %d nodes; it is 3 or 5", o.Nodes)
	}
	if o.Binary == "" {
		var err error
		if o.Binary, err = os.Executable(); err != nil {
			return Report{}, fmt.Errorf("drill: %w", err)
		}
	}
	f := &failover{FailoverOptions: o, progress: &progress{out: o.Progress, began: time.Now()}, began: time.Now(),
		rng: rand.New(rand.NewPCG(o.Seed, 0))}
	f.figures.Faults = map[string]int{}
	var cards []share[nodeFault]
	for _, fault := range nodeFaults {
		if len(o.Faults) == 0 || slices.Contains(o.Faults, fault.name) {
			cards = append(cards, share[nodeFault]{fault, 1})
		}
	}
	if len(cards) == 0 || len(o.Faults) > 0 && len(cards) != len(o.Faults) {
		return Report{}, fmt.Errorf("drill: faults are %s", strings.Join(faultNames(), ", "))
	}
	f.kinds = len(cards)
	f.faults = newDeck(o.Seed, 1, cards...)
	report := Report{Drill: "failover", Class: "A", Seed: o.Seed}
	return report, f.run(ctx, &report)
}

func (f *failover) run(ctx context.Context, report *Report) (err error) {
	f.progress.say("failover drill: %d nodes, %d rounds, seed %d", f.Nodes, f.Rounds, f.Seed)
	if f.place, err = newPlace(ctx, "", ""); err != nil {
		return err
	}
	failed := false
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, f.place.clear(ctx, failed))
	}()
	f.nursery = newNursery()
	defer f.nursery.close()
	if f.fleet, err = newNodeFleet(ctx, f); err != nil {
		return err
	}
	defer f.fleet.close()
	for round := range f.Rounds {
		if err := f.round(ctx, round); err != nil {
			failed = true
			report.Kept = f.place.dir
			return err
		}
		if f.broken {
			break
		}
	}
	report.Checks, report.Verdict = f.judge()
	report.Figures = f.measured()
	if failed = !report.Passed(); failed {
		report.Kept = f.place.dir
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

func (f *failover) round(ctx context.Context, round int) error {
	fault := f.faults.deal()
	f.progress.say("round %d of %d: %s", round+1, f.Rounds, fault.name)
	storm := newNodeStorm(f, round)
	defer storm.end()
	if err := storm.untilAll(ctx, calm, mending); err != nil {
		return fmt.Errorf("drill: before the fault: %w", err)
	}
	hit, err := fault.hit(ctx, f.fleet, f.rng)
	if err != nil {
		return fmt.Errorf("drill: %s: %w", fault.name, err)
	}
	at := time.Now()
	if !pauseFor(ctx, time.Duration(1200+f.rng.IntN(1200))*time.Millisecond) {
		return ctx.Err()
	}
	if err := hit.mend(ctx); err != nil {
		return fmt.Errorf("drill: mending %s: %w", fault.name, err)
	}
	if err := storm.untilAll(ctx, after, mending); err != nil {
		f.lost.add("round %d, %s: writes do not go on: %v", round+1, fault.name, err)
	}
	storm.end()
	if hit.happened == "" {
		f.figures.Faults[fault.name]++
	} else {
		f.happened.add("round %d: %s did not happen: %s", round+1, fault.name, hit.happened)
	}
	if gap, ok := storm.firstWrite(at); ok && fault.leader {
		f.gaps = append(f.gaps, gap)
	}
	return f.look(ctx, round, storm)
}

// look compares what the round's clients were told with what is there.
func (f *failover) look(ctx context.Context, round int, s *nodeStorm) error {
	f.figures.Commands += s.count(answered)
	f.figures.Unknown += s.count(unknown)
	f.figures.Refused += s.count(refused)
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
	digests, err := f.fleet.verify(ctx)
	if err != nil {
		f.apart.add("round %d: %v", round+1, err)
	}
	if len(digests) != f.Nodes {
		f.apart.add("round %d: %d nodes told their digest", round+1, len(digests))
	}
	return nil
}

// leastCommands is what a round has at least, whatever the machine.
const leastCommands = 200

func (f *failover) judge() (checks []Check, verdict string) {
	if !f.broken && f.Rounds >= f.kinds && len(f.figures.Faults) < f.kinds {
		f.happened.add("only %d kinds of faults happened", len(f.figures.Faults))
	}
	if f.Rounds > 2 && f.figures.Unknown == 0 {
		f.happened.add("no command was cut off: the faults were too gentle")
	}
	verdict = Pass
	for _, c := range []struct {
		name   string
		wrong  findings
		looked string
	}{
		{"nothing-lost", f.lost, fmt.Sprintf("%d answers; all that they said is there", f.figures.Commands)},
		{"linearizable", f.order, "every key's history has an order that explains all answers"},
		{"nothing-twice", f.twice, "no element was popped twice, none is there twice, pairs are equal"},
		{"expired-once", f.expiry, "what had expired never came back"},
		{"engines-equal", f.apart, "digests at equal offsets, after each round"},
		{"storm-happened", f.happened, fmt.Sprintf("%d faults, %d commands without an answer", f.Rounds, f.figures.Unknown)},
	} {
		checks = append(checks, Check{Name: c.name, OK: len(c.wrong) == 0, Detail: c.wrong.detail(c.looked)})
		if len(c.wrong) > 0 {
			verdict = Fail
		}
	}
	return checks, verdict
}

func (f *failover) measured() FailoverFigures {
	g := f.figures
	g.Seconds, g.Rounds = time.Since(f.began).Seconds(), f.Rounds
	if len(f.gaps) > 0 {
		slices.Sort(f.gaps)
		g.FirstWriteP50, g.FirstWriteMax = f.gaps[len(f.gaps)/2], f.gaps[len(f.gaps)-1]
	}
	return g
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
