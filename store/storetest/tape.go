package storetest

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

// round is how many steps are made before both stores begin again from nothing: beginnings
// are where branches are, and the shorter a run, the sooner its error is cut down.
const round = 1000

// allEvery steps the keys of all slots are compared: a script can write what is not its own.
const allEvery = 50

// tape is what the embedded store does with the steps of the plan. It is asked once for each step,
// however many seeded errors are compared with it: the steps come from the seed and are the same.
type tape struct {
	d    *differ
	r    *rand.Rand
	now  int64
	made []taped
	ends map[int]seen // after so many steps, the keys of all slots
	on   *embedded    // of the last round that was begun; nil before the first
}

// taped is a step, what the embedded store answered and what it had afterwards.
type taped struct {
	played
	out  any
	err  error
	left seen
}

// seen are keys, by slots, and what they held.
type seen struct {
	slots [][]string
	state state
}

func newTape(t testing.TB, d *differ) *tape {
	tp := &tape{d: d, r: rand.New(rand.NewPCG(d.plan.Seed, 0)), ends: map[int]seen{}}
	t.Cleanup(func() {
		if tp.on != nil {
			tp.on.close()
		}
	})
	return tp
}

// at is step i. Those before it are on the tape.
func (tp *tape) at(t testing.TB, i int) taped {
	t.Helper()
	if i < len(tp.made) {
		return tp.made[i]
	}
	if i%round == 0 {
		if tp.on != nil {
			tp.on.close()
		}
		tp.on, tp.now = tp.d.newEmbedded(t), epoch
	}
	tp.now += tp.d.plan.Pause(tp.r).Microseconds()
	tp.made = append(tp.made, tp.on.step(t, played{tp.d.plan.Next(tp.r, tp.now), tp.now}))
	return tp.made[i]
}

// end is all that is there after n steps, which end a round.
func (tp *tape) end(t testing.TB, n int) seen {
	t.Helper()
	if _, known := tp.ends[n]; !known {
		tp.ends[n] = tp.on.look(t, tp.d.allSlots())
	}
	return tp.ends[n]
}

func (tp *tape) steps(from, to int) (all []played) {
	for _, s := range tp.made[from:to] {
		all = append(all, s.played)
	}
	return all
}

// embedded is an embedded store that begins empty. Its clock is its own, and stands between its
// steps: what is compared with them may begin again meanwhile.
type embedded struct {
	d     *differ
	store *store.Store
	clock atomic.Int64
	made  int
}

func (d *differ) newEmbedded(t testing.TB) *embedded {
	t.Helper()
	e := &embedded{d: d}
	e.clock.Store(epoch)
	s, err := store.Open(context.Background(), "mem:", store.Options{Clock: func() time.Time { return time.UnixMicro(e.clock.Load()) }})
	if err != nil {
		t.Fatal(err)
	}
	e.store = s
	return e
}

func (e *embedded) close() { _ = e.store.Close() }

// step makes a step and looks at the keys of its slot, or at all.
func (e *embedded) step(t testing.TB, p played) taped {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	e.clock.Store(p.at)
	e.made++
	s := taped{played: p}
	s.out, s.err = p.run(ctx, e.store, nil)
	if e.made%allEvery != 0 && e.d.slots[p.slot] != nil {
		s.left = e.look(t, [][]string{e.d.slots[p.slot]})
	} else {
		s.left = e.look(t, e.d.allSlots())
	}
	return s
}

func (e *embedded) look(t testing.TB, slots [][]string) seen {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	is, err := readState(ctx, e.store, slots...)
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	return seen{slots, is}
}
