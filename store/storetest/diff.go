package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

// epoch is where the clock of a differential test begins.
const epoch = 1_767_225_600_000_000 // 2026-01-01, µs

const defaultSteps = 5_000

// Plan describes a differential test: the same random decisions on an embedded store and on
// a server that has the same clock.
type Plan struct {
	// Keys are all keys that the decisions may touch. Those of a step's slot are compared
	// after it, all of them now and then and at the end.
	Keys []string
	// Next chooses a step. It may depend on r and on now (the clock, µs) only: a failure is
	// replayed from the seed.
	Next func(r *rand.Rand, now int64) Step
	// Pause says how far the clock moves before a step, 0 or more; the default is mostly
	// some milliseconds, with a part of a millisecond, at times none, at times seconds.
	Pause func(r *rand.Rand) time.Duration
	// Steps is how many are made; default 5,000, a tenth of it with -short; DiffFinds makes up to
	// four times as many. STORETEST_STEPS in the environment takes the default's place.
	Steps int
	// Seed repeats a run; 0 takes STORETEST_SEED from the environment, or a new one.
	Seed uint64
}

// Step is one decision with its input.
type Step struct {
	name string
	in   any
	slot uint16
	run  func(context.Context, *store.Store, *seeded) (any, error)
}

// Do makes a step of a decision.
func Do[In, Out any](d *store.Decision[In, Out], in In) Step {
	return Step{name: d.Name(), in: in, slot: slotOf(in), run: func(ctx context.Context, s *store.Store, m *seeded) (any, error) {
		if m != nil && m.Decision == d.Name() {
			if m.wrong == nil {
				m.wrong = d.WithRemote(store.Lua(m.apply(d.Source())))
			}
			return m.wrong.(*store.Decision[In, Out]).Do(ctx, s, in)
		}
		return d.Do(ctx, s, in)
	}}
}

// slotOf is the slot of a decision's keys, which they share.
func slotOf(in any) uint16 {
	v := reflect.ValueOf(in)
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("store") != "key" {
			continue
		}
		if keys, ok := v.Field(i).Interface().([]string); !ok {
			return store.Slot(v.Field(i).String())
		} else if len(keys) > 0 {
			return store.Slot(keys[0])
		}
	}
	return 0 // there is always one, or Decide would have panicked
}

// Diff makes the plan's steps on both stores. After each it demands equal answers, equal
// errors and equal state, and reports the first difference with the seed and the fewest
// steps that it could find to show it.
//
// It needs a server and a C compiler; where one is missing the test is skipped, or fails
// when CI=true.
func Diff(t *testing.T, p Plan) {
	t.Helper()
	newDiffer(t, p).run(t)
}

func (d *differ) run(t *testing.T) {
	t.Helper()
	began := time.Now()
	if found := d.explore(t, nil); found != nil {
		t.Fatalf("the two bodies differ; STORETEST_SEED=%d repeats it\n%s", d.plan.Seed, d.shrink(t, found, nil))
	}
	took := time.Since(began)
	t.Logf("%d steps without a difference in %s (%.0f/s), seed %d",
		d.plan.Steps, took.Round(time.Millisecond), float64(d.plan.Steps)/took.Seconds(), d.plan.Seed)
}

// DiffSeveral is Diff on a cluster, a master that sentinels watch, and three nodes of which the
// one that leads is killed in the middle: what the others go on with must be equal, deadlines
// included. By default it makes 1,000 steps on the first two and 300 on nodes, where each takes
// a sync of a majority of disks; with -short it makes none.
func DiffSeveral(t *testing.T, p Plan) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts many servers")
	}
	for _, kind := range []struct {
		name  string
		start func(testing.TB) rig
		steps int
	}{{"cluster", clusterRig, 1_000}, {"sentinel", sentinelRig, 1_000}, {"nodes", nodesRig, 300}} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel() // to start them, and what they answer each other, is mostly waiting
			p := p
			if p.Steps == 0 {
				p.Steps = kind.steps
			}
			d := newDifferOn(t, p, kind.start)
			if d.rig.disturb != nil {
				d.middle = func() { d.rig.disturb(); d.awaitPing(t) }
			}
			d.run(t)
			if d.middle != nil {
				t.Error("it ended without the fault in the middle")
			}
		})
	}
}

// Mutation is a seeded error: in the script of one decision Old, which must occur exactly
// once, becomes New.
type Mutation struct{ Decision, Old, New string }

// seeded is a mutation with the decision that has it, once it was asked for.
type seeded struct {
	Mutation
	wrong any // *store.Decision
}

func (m *Mutation) apply(script string) string {
	if n := strings.Count(script, m.Old); n != 1 {
		panic(fmt.Sprintf("storetest: %q occurs %d times in the script of %s, not once", m.Old, n, m.Decision))
	}
	return strings.Replace(script, m.Old, m.New, 1)
}

// DiffFinds runs the plan once for each mutation, with that error in the script, and fails
// the test for each that makes no difference: then the plan takes too few branches.
func DiffFinds(t *testing.T, p Plan, mutations ...Mutation) {
	t.Helper()
	if p.Steps == 0 {
		p.Steps = 4 * stepsWanted(t)
	}
	d := newDiffer(t, p)
	for _, m := range mutations {
		t.Run(fmt.Sprintf("%s: %s becomes %s", m.Decision, m.Old, m.New), func(t *testing.T) {
			found := d.explore(t, &seeded{Mutation: m})
			if found == nil {
				t.Fatalf("%d steps did not notice; seed %d", d.plan.Steps, d.plan.Seed)
			}
			t.Logf("noticed at step %d, seed %d", found.after+len(found.steps), d.plan.Seed)
		})
	}
}

// withDefaults refuses a plan that would prove nothing.
func (p Plan) withDefaults(t testing.TB) Plan {
	t.Helper()
	if len(p.Keys) == 0 || p.Next == nil {
		t.Fatal("a plan needs Keys and Next")
	}
	if p.Pause == nil {
		p.Pause = somePause
	}
	if p.Steps == 0 {
		p.Steps = stepsWanted(t)
	}
	if p.Seed == 0 {
		p.Seed = rand.Uint64()
		if text := os.Getenv("STORETEST_SEED"); text != "" {
			seed, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatalf("STORETEST_SEED: %v", err)
			}
			p.Seed = seed
		}
	}
	return p
}

func stepsWanted(t testing.TB) int {
	t.Helper()
	if text := os.Getenv("STORETEST_STEPS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("STORETEST_STEPS: %q is no number of steps", text)
		}
		return n
	}
	if testing.Short() {
		return defaultSteps / 10
	}
	return defaultSteps
}

// somePause meets the borders of milliseconds, on which expiry turns, and lets keys die.
func somePause(r *rand.Rand) time.Duration {
	switch r.IntN(8) {
	case 0, 1:
		return 0
	case 2:
		return time.Duration(r.IntN(3)) * time.Millisecond
	case 3:
		return time.Duration(r.IntN(5_000)) * time.Millisecond
	default:
		return time.Duration(r.IntN(20_000)) * time.Microsecond
	}
}
