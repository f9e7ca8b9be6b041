package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

// differ holds the engines and the clock of one differential test; the embedded store is new
// for each run.
type differ struct {
	plan   Plan
	slots  map[uint16][]string // Keys of the plan
	rig    rig
	remote *store.Store
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
	return d
}

// answerWithin is generous: what is not answered looks like a difference.
const answerWithin = 10 * time.Second

// round is how many steps are made before both stores begin again from nothing: beginnings
// are where branches are, and the shorter a run, the sooner its error is cut down.
const round = 1000

// explore makes new steps until there is a difference or enough of them.
func (d *differ) explore(t testing.TB, m *Mutation) *finding {
	t.Helper()
	r := rand.New(rand.NewPCG(d.plan.Seed, 0))
	for done := 0; done < d.plan.Steps; done += round {
		if found := d.exploreRound(t, r, done, min(d.plan.Steps-done, round), m); found != nil {
			found.after = done
			return found
		}
	}
	return nil
}

func (d *differ) exploreRound(t testing.TB, r *rand.Rand, done, steps int, m *Mutation) *finding {
	t.Helper()
	run := d.begin(t)
	defer run.end()
	at := int64(epoch)
	for i := range steps {
		if done+i == d.plan.Steps/2 && d.middle != nil {
			d.middle()
			d.middle = nil
		}
		at += d.plan.Pause(r).Microseconds()
		if what := run.step(played{d.plan.Next(r, at), at}, m); what != "" {
			return &finding{steps: run.made, what: what}
		}
	}
	if what := run.compareAll(context.Background()); what != "" {
		return &finding{steps: run.made, what: what}
	}
	if what := run.strangers(); what != "" {
		t.Fatal(what)
	}
	return nil
}

// replay makes given steps. It returns the difference that the first of them shows.
func (d *differ) replay(t testing.TB, steps []played, m *Mutation) *finding {
	t.Helper()
	run := d.begin(t)
	defer run.end()
	for _, p := range steps {
		if what := run.step(p, m); what != "" {
			return &finding{steps: run.made, what: what}
		}
	}
	if what := run.compareAll(context.Background()); what != "" {
		return &finding{steps: run.made, what: what}
	}
	return nil
}

// pair is one run: an empty embedded store and the emptied engines.
type pair struct {
	*differ
	t        testing.TB
	embedded *store.Store
	made     []played
}

func (d *differ) begin(t testing.TB) *pair {
	t.Helper()
	d.rig.clock.set(epoch)
	d.rig.flush(t)
	s, err := store.Open(context.Background(), "mem:", store.Options{Clock: d.rig.clock.time})
	if err != nil {
		t.Fatal(err)
	}
	return &pair{differ: d, t: t, embedded: s}
}

func (p *pair) end() { _ = p.embedded.Close() }

// step makes one step on both sides and says what is different afterwards.
func (p *pair) step(s played, m *Mutation) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	p.rig.clock.set(s.at)
	p.made = append(p.made, s)
	ours, ourErr := s.run(ctx, p.embedded, nil)
	theirs, theirErr := s.run(ctx, p.remote, m)
	for errors.Is(theirErr, store.ErrUnavailable) && p.rig.moody && ctx.Err() == nil {
		theirs, theirErr = s.run(ctx, p.remote, m)
	}
	if kind(ourErr) != kind(theirErr) {
		return fmt.Sprintf("  embedded error: %v\n  remote error:   %v\n", ourErr, theirErr)
	}
	if ourErr == nil && !reflect.DeepEqual(ours, theirs) {
		return fmt.Sprintf("  embedded answers %+v\n  remote answers   %+v\n", ours, theirs)
	}
	if len(p.made)%allEvery != 0 && p.slots[s.slot] != nil {
		return p.compare(ctx, p.slots[s.slot])
	}
	return p.compareAll(ctx)
}

// allEvery steps the keys of all slots are compared: a script can write what is not its own.
const allEvery = 50

func (p *pair) compareAll(ctx context.Context) string {
	p.t.Helper()
	return p.compare(ctx, slices.Collect(maps.Values(p.slots))...)
}

func (p *pair) compare(ctx context.Context, slots ...[]string) string {
	p.t.Helper()
	embedded, err := readState(ctx, p.embedded, slots...)
	if err != nil {
		p.t.Fatalf("dump: %v", err)
	}
	remote, err := readState(ctx, p.remote, slots...)
	if err != nil {
		p.t.Fatalf("dump: %v", err)
	}
	return differences(embedded, remote)
}

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
func (p *pair) strangers() string {
	p.t.Helper()
	var unknown []string
	for _, slot := range p.rig.ways {
		out, err := everyKey.Do(context.Background(), p.remote, everyKeyIn{slot})
		if err != nil {
			p.t.Fatal(err)
		}
		unknown = append(unknown, slices.DeleteFunc(out.Flat, func(k string) bool { return slices.Contains(p.plan.Keys, k) })...)
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
func (d *differ) shrink(t testing.TB, f *finding, m *Mutation) string {
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
