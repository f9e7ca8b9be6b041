package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// site is what a storm on locks or limits starts its engines and processes with.
type site struct {
	store    string // which one
	binary   string // the program to judge
	class    string // of the store
	progress *progress
	began    time.Time
	place    *place
	nursery  *nursery
	engine   lockEngine
	shim     string // library for engines' clocks; empty: none
	noShim   string // why not
	rules    string // of limits: a file's text; empty: there are none
}

// What locks and limits of a drill can be in. It starts all of them itself: it harms nobody else's.
const (
	lockFile     = "file:"
	lockRedis    = "redis-server"
	lockRedisB   = "redis-server?class=b"
	lockReplica  = "redis-server?replica"
	lockValkey   = "valkey-server"
	lockReplicaV = "valkey-server?replica"
)

// newSite checks what both drills are asked for.
func newSite(drill, store string, stores []string, binary string, out io.Writer) (s *site, err error) {
	if store == "" {
		store = lockFile
	}
	switch {
	case runtime.GOOS != "linux":
		return nil, fmt.Errorf("drill: the %s drill needs Linux: it looks in /proc whether what it stops stands still", drill)
	case !slices.Contains(stores, store):
		return nil, fmt.Errorf("drill: the %s drill starts its store itself: %s", drill, strings.Join(stores, ", "))
	}
	s = &site{store: store, binary: binary, class: "C", began: time.Now()}
	switch store {
	case lockFile, ownNodes:
		s.class = "A"
	case lockRedisB:
		s.class = "B"
	}
	if s.binary == "" {
		if s.binary, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("drill: %w", err)
		}
	}
	s.progress = &progress{out: out, began: s.began}
	return s, nil
}

// inRange checks a number, and some names of faults.
func inRange(n, least, most int, what string) error {
	if n < least || n > most {
		return fmt.Errorf("drill: %d %s is not in %d..%d", n, what, least, most)
	}
	return nil
}

func knownFaults(asked, known []string) ([]string, error) {
	asked = slices.DeleteFunc(slices.Clone(asked), func(name string) bool { return name == "" })
	for _, name := range asked {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("drill: faults of a store are %s", strings.Join(known, ", "))
		}
	}
	return asked, nil
}

// orRandom is a seed, a random one for 0.
func orRandom(seed uint64) uint64 {
	if seed == 0 {
		return 1 + rand.Uint64N(maxSeed-1)
	}
	return seed
}

// storming is a drill in rounds on a site.
type storming interface {
	// prepare deals the rounds, when the store answers, and says how many.
	prepare() (rounds int, err error)
	round(ctx context.Context, n int) error
	// harm counts what is wrong, but for storms that did not happen.
	harm() int
	judge() (checks []Check, verdict string)
	measured() any
}

// run starts the store, runs the rounds, and judges. An error means that there is no verdict.
func (s *site) run(ctx context.Context, d storming, report Report) (_ Report, err error) {
	if s.place, err = newPlace(ctx, "", ""); err != nil {
		return report, err
	}
	failed := false
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, s.place.clear(ctx, failed))
	}()
	s.nursery = newNursery()
	defer s.nursery.close()
	if s.shim, err = buildSkew(s.place.dir); err != nil {
		s.noShim = err.Error()
	}
	if err := s.writeRules(); err != nil {
		return report, err
	}
	if err := s.open(ctx); err != nil {
		return report, err
	}
	defer s.engine.close()
	rounds, err := d.prepare()
	if err != nil {
		return report, err
	}
	for n := range rounds {
		if err := d.round(ctx, n); ctx.Err() != nil {
			return report, ctx.Err()
		} else if err != nil {
			failed = true
			return report, fmt.Errorf("drill: round %d: %w (the evidence is in %s)", n+1, err, s.place.dir)
		}
		if d.harm() > 0 {
			break // what follows would say it again
		}
	}
	report.Class = s.class
	report.Checks, report.Verdict = d.judge()
	report.Figures = d.measured()
	if failed = !report.Passed(); failed {
		report.Kept = s.place.dir
	}
	s.progress.say("%s", report.Verdict)
	return report, nil
}

// open starts the store.
func (s *site) open(ctx context.Context) (err error) {
	switch s.store {
	case lockFile:
		s.engine, err = newLockServer(s)
	case ownNodes:
		s.engine, err = newLockNodes(ctx, s)
	default:
		s.engine, err = newLockRedis(ctx, s)
	}
	return err
}

// judged is a check before its verdict: what is wrong, and what was looked at.
type judged struct {
	name   string
	wrong  findings
	looked string
}

func verdictOf(all []judged) (checks []Check, verdict string) {
	verdict = Pass
	for _, c := range all {
		checks = append(checks, Check{Name: c.name, OK: len(c.wrong) == 0, Detail: c.wrong.detail(c.looked)})
		if len(c.wrong) > 0 {
			verdict = Fail
		}
	}
	return checks, verdict
}
