package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

// differ holds the engines and the clock of one differential test, and what the embedded store
// has answered so far.
type differ struct {
	plan   Plan
	slots  map[uint16][]string // Keys of the plan
	rig    rig
	remote *store.Store
	tape   *tape
	middle func() // called once, before the step in the middle; nil: nothing happens there, or it has
}

// played is a step with its place in time, so that a shorter run can repeat it there.
type played struct {
	Step
	at int64
}

// finding is a run whose last step showed a difference.
type finding struct {
	steps []played
	what  string
	after int // steps made before, in rounds without a difference
}

func newDiffer(t *testing.T, p Plan) *differ {
	t.Helper()
	return newDifferOn(t, p, serverRig)
}

func newDifferOn(t *testing.T, p Plan, start func(testing.TB) rig) *differ {
	t.Helper()
	d := &differ{plan: p.withDefaults(t), slots: bySlot(p.Keys), rig: start(t)}
	d.remote = open(t, d.rig.url, store.Options{Timeout: answerWithin})
	d.tape = newTape(t, d)
	return d
}

// answerWithin is generous: what is not answered looks like a difference.
const answerWithin = 10 * time.Second

// explore makes new steps until there is a difference or enough of them.
func (d *differ) explore(t testing.TB, m *seeded) *finding {
	t.Helper()
	for done := 0; done < d.plan.Steps; done += round {
		if found := d.exploreRound(t, done, min(d.plan.Steps-done, round), m); found != nil {
			found.after = done
			return found
		}
	}
	return nil
}

func (d *differ) exploreRound(t testing.TB, done, steps int, m *seeded) *finding {
	t.Helper()
	d.begin(t)
	for i := done; i < done+steps; i++ {
		if i == d.plan.Steps/2 && d.middle != nil {
			d.middle()
			d.middle = nil
		}
		if what := d.step(t, d.tape.at(t, i), m); what != "" {
			return &finding{steps: d.tape.steps(done, i+1), what: what}
		}
	}
	if what := d.compare(t, d.tape.end(t, done+steps)); what != "" {
		return &finding{steps: d.tape.steps(done, done+steps), what: what}
	}
	if what := d.strangers(t); what != "" {
		t.Fatal(what)
	}
	return nil
}

// begin empties the engines, at the time at which every round begins.
func (d *differ) begin(t testing.TB) {
	t.Helper()
	d.rig.clock.set(epoch)
	d.rig.flush(t)
}

// replay makes given steps. It returns the difference that the first of them shows.
func (d *differ) replay(t testing.TB, steps []played, m *seeded) *finding {
	t.Helper()
	d.begin(t)
	e := d.newEmbedded(t)
	defer e.close()
	for i, p := range steps {
		if what := d.step(t, e.step(t, p), m); what != "" {
			return &finding{steps: steps[:i+1], what: what}
		}
	}
	if what := d.compare(t, e.look(t, d.allSlots())); what != "" {
		return &finding{steps: steps, what: what}
	}
	return nil
}

// step makes on the engines the step that the embedded store has made, and says what is different afterwards.
func (d *differ) step(t testing.TB, s taped, m *seeded) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	d.rig.clock.set(s.at)
	theirs, err := s.run(ctx, d.remote, m)
	for errors.Is(err, store.ErrUnavailable) && d.rig.moody && ctx.Err() == nil {
		theirs, err = s.run(ctx, d.remote, m)
	}
	if kind(s.err) != kind(err) {
		return fmt.Sprintf("  embedded error: %v\n  remote error:   %v\n", s.err, err)
	}
	if s.err == nil && !reflect.DeepEqual(s.out, theirs) {
		return fmt.Sprintf("  embedded answers %+v\n  remote answers   %+v\n", s.out, theirs)
	}
	return d.compare(t, s.left)
}

// compare reads from the engines what was seen in the embedded store.
func (d *differ) compare(t testing.TB, embedded seen) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	remote, err := readState(ctx, d.remote, embedded.slots...)
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	return differences(embedded.state, remote)
}

func (d *differ) allSlots() [][]string { return slices.Collect(maps.Values(d.slots)) }

// kind is the sentinel that a caller acts on; two bodies may word an error differently.
func kind(err error) error {
	for _, k := range []error{
		store.ErrUnavailable, store.ErrOutcomeUnknown, store.ErrFull, store.ErrWrongType,
		store.ErrRange, store.ErrSlot, store.ErrCorrupt, store.ErrClosed, store.ErrConfig,
	} {
		if errors.Is(err, k) {
			return k
		}
	}
	return err
}

type everyKeyIn struct {
	Slot string `store:"key"`
}

// everyKey runs on a server only: the one that has the slot.
var everyKey = store.Decide("storetest.keys", store.Lua("return {redis.call('KEYS', '*')}"),
	func(*store.Tx, everyKeyIn) dumpOut { return dumpOut{} })

// strangers are keys that the plan does not list, so that nobody compared them.
func (d *differ) strangers(t testing.TB) string {
	t.Helper()
	var unknown []string
	for _, slot := range d.rig.ways {
		out, err := everyKey.Do(context.Background(), d.remote, everyKeyIn{slot})
		if err != nil {
			t.Fatal(err)
		}
		unknown = append(unknown, slices.DeleteFunc(out.Flat, func(k string) bool { return slices.Contains(d.plan.Keys, k) })...)
	}
	if len(unknown) == 0 {
		return ""
	}
	return fmt.Sprintf("the decisions wrote keys that the plan does not list: %q", unknown)
}

const (
	shrinkFor   = 10 * time.Second
	shrinkTries = 400
)

// shrink leaves out steps, first many at once, as long as some difference stays, and tells
// the shortest run.
func (d *differ) shrink(t testing.TB, f *finding, m *seeded) string {
	t.Helper()
	end, tries := time.Now().Add(shrinkFor), 0
	for size := len(f.steps) / 2; size > 0; size /= 2 {
		for from := 0; from+size < len(f.steps); { // the last step shows the difference
			if tries++; tries > shrinkTries || time.Now().After(end) {
				return f.String()
			}
			shorter := slices.Concat(f.steps[:from], f.steps[from+size:])
			if g := d.replay(t, shorter, m); g != nil {
				f = g
			} else {
				from += size
			}
		}
	}
	return f.String()
}

const shownSteps = 30

func (f *finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d steps:\n", len(f.steps))
	for i, p := range f.steps {
		if i < len(f.steps)-shownSteps {
			continue
		}
		fmt.Fprintf(&b, "  %s %s %+v\n", time.UnixMicro(p.at).UTC().Format("15:04:05.000000"), p.name, p.in)
	}
	b.WriteString("after the last one:\n")
	b.WriteString(f.what)
	return b.String()
}
