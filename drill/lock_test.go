package drill

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"
)

func drillLock(t *testing.T, o LockOptions) Report {
	t.Helper()
	var said bytes.Buffer
	o.Progress = &said
	report, err := Lock(t.Context(), o)
	return reported(t, report, err, &said)
}

// Whatever happens to holders and to the store, what the names guard takes no late write, and the lock is one as long
// as its store forgets nothing.
func TestLock(t *testing.T) {
	bin := program(t, "")
	leavingNothing(t)
	var storms []smallStorm
	for _, c := range []struct {
		store, class string
		faults       []string
		judged       int // rounds whose locks are judged by themselves
	}{
		{lockFile, "A", []string{killEngine, cutHolders}, 2},
		{lockReplica, "C", []string{failOver, clockJump}, 1},
		{lockRedisB, "B", []string{killEngine, pauseEngine}, 2},
		{ownNodes, "A", []string{isolateNodes, clockJump}, 2},
	} {
		storms = append(storms, smallStorm{c.store, func(t *testing.T) {
			if c.store != lockFile {
				needed(t, "redis-server")
			}
			r := drillLock(t, LockOptions{Binary: bin, Store: c.store, Faults: c.faults, Rounds: len(c.faults), Holders: 8})
			mustPass(t, r)
			f := r.Figures.(LockFigures)
			if r.Class != c.class || f.Judged != c.judged-len(f.Skipped) || len(f.Faults) != len(c.faults)-len(f.Skipped) {
				t.Errorf("%+v", r)
			}
		}})
	}
	inLines(t, 1, storms)
}

// In each run one protection is switched off and the fault that needs it is dealt, and the check for it has to see it
// within a few tries: whom a fault meets is chance.
func TestLockMutants(t *testing.T) {
	t.Parallel()
	needed(t, "redis-server")
	for _, c := range []struct {
		name, mutant, store, fault, caught string
		seed                               uint64
	}{
		{"late holders write", "mutant_guard", lockFile, noFault, "no-stale-write", seedWith(t, func(p plannedLock) bool { return p.holder == pauseHolder })},
		{"waiters are served in no order", "mutant_line", lockRedis, noFault, "first-come-first-served", 0},
		{"shares are given to all", "mutant_shares", lockFile, noFault, "shares-kept", 0},
		{"holders are not told", "mutant_untold", lockRedis, cutHolders, "linearizable", 0},
		{"tokens follow the clock", "mutant_mark", lockRedis, clockJump, "tokens-never-repeat", seedWith(t, func(p plannedLock) bool { return jumpOf(p.rng()) < 0 })},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel() // it is mostly waiting
			bin := program(t, c.mutant)
			const tries = 3
			for range tries {
				r := drillLock(t, LockOptions{Binary: bin, Store: c.store, Faults: []string{c.fault}, Rounds: 3, Seed: c.seed, Holders: 10})
				if len(r.Figures.(LockFigures).Skipped) > 0 {
					t.Skip("the fault cannot happen here")
				}
				i := slices.IndexFunc(r.Checks, func(k Check) bool { return k.Name == c.caught })
				if !r.Passed() && !r.Checks[i].OK {
					return
				}
				t.Logf("seed %d: not noticed: %s", r.Seed, r.Checks[i].Detail)
			}
			t.Error("it was not noticed")
		})
	}
}

// seedWith looks for a seed whose first round is as it is wanted.
func seedWith(t *testing.T, wanted func(plannedLock) bool) uint64 {
	t.Helper()
	for seed := uint64(1); seed < 1000; seed++ {
		d := &locking{LockOptions: LockOptions{Seed: seed, Rounds: 1}}
		if wanted(d.plan([]lockFault{nothingHappens.ofLock()})[0]) {
			return seed
		}
	}
	t.Fatal("there is no such seed")
	return 0
}

// The seed alone decides the faults and how long they last; none comes again before all others have come.
func TestLockReplays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &locking{LockOptions: LockOptions{Seed: rapid.Uint64Range(1, maxSeed).Draw(t, "seed"), Rounds: rapid.IntRange(1, 60).Draw(t, "rounds")}}
		var cards []lockFault
		for _, name := range lockFaultNames() {
			cards = append(cards, lockFault{name: name})
		}
		first, again, dealt := d.plan(cards), d.plan(cards), map[string]int{}
		for i, p := range first {
			if q := again[i]; p.holder != q.holder || p.store.name != q.store.name || p.held != q.held || p.late != q.late || p.dice != q.dice {
				t.Fatalf("round %d is %+v, and then %+v", i, p, q)
			}
			if dealt[p.store.name]++; dealt[p.store.name] > i/len(cards)+1 {
				t.Fatalf("%s came again before all others had come", p.store.name)
			}
			if p.late <= leaseTTL || p.held <= leaseTTL {
				t.Fatalf("round %d does not outlast a lease: %+v", i, p)
			}
		}
	})
}

func TestLockOptionsAreChecked(t *testing.T) {
	for _, c := range []struct {
		o    LockOptions
		want string
	}{
		{LockOptions{Rounds: 10_001}, "rounds"},
		{LockOptions{Rounds: -1}, "rounds"},
		{LockOptions{Holders: 3}, "holders"},
		{LockOptions{Store: "redis://127.0.0.1"}, "starts its store itself"},
		{LockOptions{Faults: []string{"flood"}}, "faults of a store"},
	} {
		if _, err := Lock(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}

// journal makes events of one holder: each is its kind, and how many ms after the first second it was.
func journal(at int64, e holderEvent) holderEvent {
	e.At = (1000 + at) * int64(time.Millisecond)
	return e
}

// held is a lease from the question to the release, times in ms.
func held(who, op int, token, asked, got, released, answered int64, outcome string) *holderProcess {
	return &holderProcess{player[holderEvent]{index: who, events: []holderEvent{
		journal(asked, holderEvent{Kind: "ask", Op: op, Name: "n", For: int64(time.Second)}),
		journal(got, holderEvent{Kind: "got", Op: op, Name: "n", Token: token, Owner: "o"}),
		journal(released, holderEvent{Kind: "release", Op: op}),
		journal(answered, holderEvent{Kind: "released", Op: op, Err: outcome}),
	}}}
}

// shares makes it a lease that is shared, or of some permits.
func (h *holderProcess) shares(permits, of int64) *holderProcess {
	h.events[0].Shared, h.events[0].Permits, h.events[0].Of = of == 0, permits, of
	return h
}

func (h *holderProcess) with(at int64, e holderEvent) *holderProcess {
	h.events = append(h.events, journal(at, e))
	slices.SortStableFunc(h.events, func(a, b holderEvent) int { return int(a.At - b.At) })
	return h
}

// The judges see what is wrong, and nothing where nothing is.
func TestLockChecks(t *testing.T) {
	second := int64(time.Second)
	for _, c := range []struct {
		name    string
		holders []*holderProcess
		windows []window
		want    string
	}{
		{name: "one after the other", holders: []*holderProcess{held(0, 1, 10, 0, 1, 50, 51, ""), held(1, 1, 20, 10, 51, 90, 91, "")}},
		{name: "two at once", holders: []*holderProcess{held(0, 1, 10, 0, 1, 500, 501, ""), held(1, 1, 20, 10, 40, 90, 91, "")}, want: "apart"},
		{name: "expired, and known in time", holders: []*holderProcess{
			held(0, 1, 10, 0, 1, 900, 901, "lost").with(500, holderEvent{Kind: "lost", Op: 1}), held(1, 1, 20, 10, 520, 600, 601, "")}},
		{name: "expired, and not known", holders: []*holderProcess{held(0, 1, 10, 0, 1, 900, 901, "lost"), held(1, 1, 20, 10, 520, 600, 601, "")}, want: "apart"},
		{name: "expired while it did not run", holders: []*holderProcess{
			held(0, 1, 10, 0, 1, 900, 901, "lost").with(890, holderEvent{Kind: "stall", For: 880 * 1e6}), held(1, 1, 20, 10, 520, 600, 601, "")}},
		{name: "expired when a clock jumped", holders: []*holderProcess{held(0, 1, 10, 0, 1, 900, 901, "lost"), held(1, 1, 20, 10, 520, 600, 601, "")},
			windows: []window{{fault: clockJump, jumps: true, from: time.UnixMilli(1100), to: time.UnixMilli(1200)}}},
		{name: "two at once after the store forgot", holders: []*holderProcess{held(0, 1, 10, 0, 1, 500, 501, ""), held(1, 1, 20, 10, 40, 90, 91, "")},
			windows: []window{{fault: killEngine, forgets: true}}},
		{name: "shared by two", holders: []*holderProcess{held(0, 1, 10, 0, 1, 500, 501, "").shares(0, 0), held(1, 1, 20, 10, 40, 90, 91, "").shares(0, 0)}},
		{name: "alone beside one that shares", want: "shares",
			holders: []*holderProcess{held(0, 1, 10, 0, 1, 500, 501, "").shares(0, 0), held(1, 1, 20, 10, 40, 90, 91, "")}},
		{name: "as many permits as there are", holders: []*holderProcess{held(0, 1, 10, 0, 1, 500, 501, "").shares(2, 3), held(1, 1, 20, 10, 40, 90, 91, "").shares(1, 3)}},
		{name: "more permits than there are", want: "shares",
			holders: []*holderProcess{held(0, 1, 10, 0, 1, 500, 501, "").shares(2, 3), held(1, 1, 20, 10, 40, 90, 91, "").shares(2, 3)}},
		{name: "more permits after the store forgot", windows: []window{{fault: killEngine, forgets: true}},
			holders: []*holderProcess{held(0, 1, 10, 0, 1, 500, 501, "").shares(2, 3), held(1, 1, 20, 10, 40, 90, 91, "").shares(2, 3)}},
		{name: "a token twice", holders: []*holderProcess{held(0, 1, 10, 0, 1, 50, 51, ""), held(1, 1, 10, 10, 60, 90, 91, "")}, want: "apart repeated"},
		{name: "a token that goes back", holders: []*holderProcess{held(0, 1, 20, 0, 1, 50, 51, ""), held(1, 1, 10, 60, 61, 90, 91, "")}, want: "apart repeated"},
		{name: "overtaken by much", holders: []*holderProcess{held(0, 1, 20, 0, 900, 910, 911, ""), held(1, 1, 10, 600, 700, 800, 801, "")}, want: "order"},
		{name: "overtaken by little", holders: []*holderProcess{held(0, 1, 20, 0, 900, 910, 911, ""), held(1, 1, 10, 400, 700, 800, 801, "")}},
		{name: "overtaken while it did not run", holders: []*holderProcess{
			held(0, 1, 20, 0, 900, 910, 911, "").with(500, holderEvent{Kind: "stall", For: 300 * 1e6}), held(1, 1, 10, 600, 700, 800, 801, "")}},
		{name: "no answer", holders: []*holderProcess{(&holderProcess{}).with(0, holderEvent{Kind: "ask", Op: 1, Name: "n", For: second})}, want: "waiting"},
		{name: "no answer, but it was killed", holders: []*holderProcess{(&holderProcess{player[holderEvent]{killed: true}}).with(0, holderEvent{Kind: "ask", Op: 1, Name: "n", For: second})}},
		{name: "its deadline", holders: []*holderProcess{waited(1001, "deadline")}},
		{name: "before its deadline", holders: []*holderProcess{waited(700, "deadline")}, want: "waiting"},
		{name: "long after its deadline", holders: []*holderProcess{waited(2500, "deadline")}, want: "waiting"},
		{name: "an error from a store in peace", holders: []*holderProcess{waited(10, "store: gone")}, want: "told"},
		{name: "an error from a store in trouble", holders: []*holderProcess{waited(10, "store: gone")},
			windows: []window{{fault: killEngine, from: time.UnixMilli(1000), to: time.UnixMilli(1005)}}},
		{name: "a write that was answered with something else", want: "told",
			holders: []*holderProcess{held(0, 1, 10, 0, 1, 50, 51, "").with(20, holderEvent{Kind: "wrote", Op: 1, To: "rows", Status: 500})}},
		{name: "a write that is not there", want: "cause",
			holders: []*holderProcess{held(0, 1, 10, 0, 1, 50, 51, "").with(20, holderEvent{Kind: "wrote", Op: 1, To: "rows", Status: 200})}},
		{name: "a refusal without a cause", want: "cause",
			holders: []*holderProcess{held(0, 1, 10, 0, 1, 50, 51, "").with(20, holderEvent{Kind: "wrote", Op: 1, To: "rows", Status: 409})}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &locking{read: map[string]int64{}, last: map[string]written{}, tokens: map[string]int64{}}
			r := &lockRound{d: d, windows: c.windows}
			told := chronicleOf(c.holders)
			for _, text := range told.problems {
				d.told.add("%s", text)
			}
			r.kept("here", told, map[string][]written{})
			r.ownTokens("here", told)
			r.exclusive("here", told)
			r.fifo("here", told)
			r.ended("here", told)
			for kind, found := range map[string]findings{"apart": d.apart, "shares": d.shares, "repeated": d.repeated, "order": d.order, "waiting": d.waiting,
				"told": d.told, "cause": d.cause, "happened": d.happened} {
				if wanted := slices.Contains(strings.Fields(c.want), kind); wanted != (len(found) > 0) {
					t.Errorf("%s: %v", kind, found)
				}
			}
		})
	}
}

func waited(ended int64, why string) *holderProcess {
	return (&holderProcess{}).with(0, holderEvent{Kind: "ask", Op: 1, Name: "n", For: int64(time.Second)}).with(ended, holderEvent{Kind: "failed", Op: 1, Err: why})
}

// A resource's writes are in order as long as no token goes back, and no token is of two owners.
func TestAcceptedInOrder(t *testing.T) {
	for _, c := range []struct {
		name  string
		all   []written
		wrong int
	}{
		{"each larger", []written{{1, "a", ""}, {2, "b", ""}}, 0},
		{"the same again", []written{{1, "a", ""}, {1, "a", ""}}, 0},
		{"the same of another", []written{{1, "a", ""}, {1, "b", ""}}, 1},
		{"back", []written{{2, "a", ""}, {1, "b", ""}, {3, "c", ""}}, 1},
	} {
		var stale findings
		if inOrder("here", written{}, c.all, &stale); len(stale) != c.wrong {
			t.Errorf("%s: %v", c.name, stale)
		}
	}
}

// Any history that a lock can have is taken for one, however its answers come late.
func TestLockHistoriesOfALock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []tenure
		now, token := int64(1000), int64(0)
		late := func(label string) int64 { return rapid.Int64Range(0, 300).Draw(t, label) }
		for who := range rapid.IntRange(1, 12).Draw(t, "leases") {
			token += rapid.Int64Range(1, 9).Draw(t, "token")
			x := tenure{who: who, name: "n", token: token, asked: now - late("asked"), got: now + late("got")}
			now += 1 + late("hold")
			switch rapid.IntRange(0, 2).Draw(t, "end") {
			case 0: // released: between the call and the answer the store lets it go
				x.released = max(now-late("released"), x.got)
				now = max(now, x.released)
				x.knew, x.answered = x.released, now+late("answered")
			case 1: // it expired, and its holder knew before
				x.knew = min(x.got, now)
			case 2: // it expired, and the store said so later
				x.knew, x.released, x.outcome = min(x.got, now), now+1, "lost"
				x.answered = now + 1 + late("answered")
			}
			now++
			all = append(all, x)
		}
		if porcupine.CheckOperationsTimeout(lockModel, lockHistory(all, func(tenure) bool { return false }), checkTime) != porcupine.Ok {
			t.Fatalf("%+v", all)
		}
	})
}

// Whatever stands in a journal, reading it ends well or with an error.
func FuzzJournal(f *testing.F) {
	f.Add(`{"at":1,"kind":"ask","op":1,"name":"n"}` + "\n" + `{"at":2,"kind":"got","op":1,"token":3}` + "\n" + `{"at":3,"ki`)
	f.Add("{}\n\n")
	f.Add(strings.Repeat("x", 1<<15))
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		h := &holderProcess{player[holderEvent]{log: file}}
		defer func() {
			if h.file != nil {
				_ = h.file.Close()
			}
		}()
		if h.catchUp() == nil {
			h.last()
			chronicleOf([]*holderProcess{h})
		}
	})
}
