package drill

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func drillLimit(t *testing.T, o LimitOptions) Report {
	t.Helper()
	var said bytes.Buffer
	o.Progress = &said
	report, err := Limit(t.Context(), o)
	return reported(t, report, err, &said)
}

// Whatever happens to callers and to the store, no rule admits more than its bound, and nobody waits for long.
func TestLimit(t *testing.T) {
	bin := program(t, "")
	leavingNothing(t)
	var storms []smallStorm
	for _, c := range []struct {
		store, class string
		faults       []string
	}{
		{lockFile, "A", []string{killEngine}},
		{lockRedis, "C", []string{blackHole}},
		{ownNodes, "A", []string{isolateNodes}},
	} {
		storms = append(storms, smallStorm{c.store, func(t *testing.T) {
			if c.store != lockFile {
				needed(t, "redis-server")
			}
			r := drillLimit(t, LimitOptions{Binary: bin, Store: c.store, Faults: c.faults, Rounds: len(c.faults), Callers: 4})
			mustPass(t, r)
			if f := r.Figures.(LimitFigures); r.Class != c.class || len(f.Faults) != len(c.faults) || f.Killed+f.Paused != len(c.faults) {
				t.Errorf("%+v", r)
			}
		}})
	}
	inLines(t, 1, storms)
}

// In each run one protection is switched off, and the check for it has to see it within a few rounds.
func TestLimitMutants(t *testing.T) {
	t.Parallel()
	needed(t, "redis-server")
	for _, c := range []struct{ name, mutant, store, fault, caught string }{
		{"some is not counted", "mutant_uncounted", lockFile, noFault, "bounds-kept"},
		{"who refuses counts", "mutant_refusedtakes", lockFile, noFault, "all-or-nothing"},
		{"another counts what one refused", "mutant_takespart", lockFile, noFault, "all-or-nothing"},
		{"slots of the dead are kept", "mutant_leasekept", lockFile, noFault, "slots-come-back"},
		{"told half", "mutant_halfwait", lockFile, noFault, "told-when"},
		{"reserved again", "mutant_reservedagain", lockFile, noFault, "reserved-once"},
		{"everybody waits", "mutant_circuit", lockRedis, blackHole, "answers-in-time"},
		{"each has the whole", "mutant_fullshare", lockRedis, blackHole, "shares-kept"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel() // it is mostly waiting
			bin := program(t, c.mutant)
			for range 4 { // not one run of four: it ends with the first round in which anything is wrong
				r := drillLimit(t, LimitOptions{Binary: bin, Store: c.store, Faults: []string{c.fault}, Rounds: 1, Callers: 4})
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

// The seed alone decides the faults and how long they last; none comes again before all others have come.
func TestLimitReplays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &limiting{LimitOptions: LimitOptions{Seed: rapid.Uint64Range(1, maxSeed).Draw(t, "seed"), Rounds: rapid.IntRange(1, 60).Draw(t, "rounds")}}
		var cards []limitFault
		for _, name := range limitFaultNames() {
			cards = append(cards, limitFault{storeFault: storeFault{name: name}})
		}
		first, again, dealt := d.plan(cards), d.plan(cards), map[string]int{}
		for i, p := range first {
			if q := again[i]; p.caller != q.caller || p.store.name != q.store.name || p.held != q.held || p.late != q.late || p.dice != q.dice {
				t.Fatalf("round %d is %+v, and then %+v", i, p, q)
			}
			if dealt[p.store.name]++; dealt[p.store.name] > i/len(cards)+1 {
				t.Fatalf("%s came again before all others had come", p.store.name)
			}
			if p.late <= slotLease {
				t.Fatalf("round %d does not outlast a lease: %+v", i, p)
			}
		}
	})
}

func TestLimitOptionsAreChecked(t *testing.T) {
	for _, c := range []struct {
		o    LimitOptions
		want string
	}{
		{LimitOptions{Rounds: 10_001}, "rounds"},
		{LimitOptions{Rounds: -1}, "rounds"},
		{LimitOptions{Callers: 1}, "callers"},
		{LimitOptions{Store: "redis://127.0.0.1"}, "starts its store itself"},
		{LimitOptions{Store: lockReplica}, "starts its store itself"},
		{LimitOptions{Faults: []string{clockJump}}, "faults of a store"},
	} {
		if _, err := Limit(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}

const limitKey = "r1"

// told makes a caller's journal of answers: times in ms, from the first second on.
type toldCaller struct{ *callerProcess }

func aCaller(who int) toldCaller {
	c := toldCaller{&callerProcess{index: who}}
	c.events = append(c.events, callerEvent{At: 1, Kind: "live", Live: 2})
	return c
}

func ms(n int64) int64 { return (1000 + n) * int64(time.Millisecond) }

// says adds n answers with the same times.
func (c toldCaller) says(n int, sent, at int64, e callerEvent) toldCaller {
	e.Sent, e.At, e.Took = ms(sent), ms(at), ms(at)-ms(sent)
	if e.Units == 0 {
		e.Units = 1
	}
	if e.Key == "" {
		e.Key = limitKey
	}
	if e.Source == "" {
		e.Source = "store"
	}
	for range n {
		e.Op++
		c.events = append(c.events, e)
	}
	return c
}

func take(rule string, allowed bool) callerEvent {
	return callerEvent{Kind: "take", Rule: rule, Allowed: allowed}
}

// refusedThen is one who is alone with a rule, is told to wait for 100 ms, and asks again.
func refusedThen(sent, at int64, allowed bool) toldCaller {
	e := callerEvent{Kind: "alone", Rule: "token", Wait: 100 * int64(time.Millisecond)}
	c := aCaller(0).says(1, 0, 1, e)
	e.Allowed = allowed
	return c.says(1, sent, at, e)
}

// pairOf is a call of two rules.
func pairOf(allowed bool, source string) toldCaller {
	c := aCaller(0)
	c.events = append(c.events, callerEvent{Kind: "ask", Rule: "pair", Op: 1, Key: limitKey})
	return c.says(1, 0, 1, callerEvent{Kind: "pair", Allowed: allowed, Source: source})
}

// reservedOnce is a reservation of 3 units that was made twice and came to 5.
func reservedOnce(settled string) toldCaller {
	c := aCaller(0)
	c.events = append(c.events, callerEvent{Kind: "ask", Rule: ruleHeld, Op: 1, Units: 3})
	c.says(1, 0, 1, callerEvent{Kind: "reserved", Allowed: true}).says(1, 2, 3, callerEvent{Kind: "reserved", Allowed: true})
	c.events = append(c.events, callerEvent{Kind: "settles", Op: 1, Units: 5})
	if settled != "never" {
		c.events = append(c.events, callerEvent{Kind: "settled", Op: 1, Units: 5, Err: settled})
	}
	return c
}

// The judges see what is wrong, and nothing where nothing is.
func TestLimitChecks(t *testing.T) {
	burst := func(rule string, n int) toldCaller { return aCaller(0).says(n, 0, 1, take(rule, true)) }
	policy := func(who, n int, rule string) toldCaller {
		e := take(rule, true)
		e.Source = "policy"
		return aCaller(who).says(n, 0, 1, e)
	}
	slotsOf := func(who, n int) toldCaller {
		return aCaller(who).says(n, 0, 1, callerEvent{Kind: "slot", Rule: ruleSlots, Allowed: true})
	}
	forgets := window{fault: killEngine, forgets: true, from: time.Unix(0, ms(0)), to: time.Unix(0, ms(1))}
	for _, c := range []struct {
		name    string
		callers []toldCaller
		window  window
		left    map[string]int64 // of ruleWide, ruleBrim and ruleHeld; what is not there agrees
		want    string
	}{
		{name: "a full bucket", callers: []toldCaller{burst("token", 8)}},
		{name: "more than a bucket", callers: []toldCaller{burst("token", 9)}, want: "bounds"},
		{name: "more than a bucket, by two", callers: []toldCaller{burst("token", 4), aCaller(1).says(5, 0, 1, take("token", true))}, want: "bounds"},
		{name: "more than a bucket, and time for it", callers: []toldCaller{burst("token", 8).says(1, 0, 30, take("token", true))}},
		{name: "a bucket twice after the store forgot", callers: []toldCaller{burst("token", 16)}, window: forgets},
		{name: "three times", callers: []toldCaller{burst("token", 17)}, window: forgets, want: "bounds"},
		{name: "two turns at once", callers: []toldCaller{burst("leaky", 2)}, want: "bounds"},
		{name: "a window", callers: []toldCaller{burst("fixed", 15)}},
		{name: "more than a window", callers: []toldCaller{aCaller(0).says(16, 100, 101, take("fixed", true))}, want: "bounds"},
		{name: "two windows at their border", callers: []toldCaller{burst("fixed", 30)}},
		{name: "more than a counter", callers: []toldCaller{burst("counter", 16)}, want: "bounds"},
		{name: "more than a log", callers: []toldCaller{burst("log", 16)}, want: "bounds"},
		{name: "all slots", callers: []toldCaller{slotsOf(0, 3), slotsOf(1, 3)}},
		{name: "more than all slots", callers: []toldCaller{slotsOf(0, 3), slotsOf(1, 4)}, want: "bounds"},
		{name: "parts", callers: []toldCaller{policy(0, 7, "log"), policy(1, 7, "log")}},
		{name: "more than parts", callers: []toldCaller{policy(0, 8, "log"), policy(1, 8, "log")}, want: "shares"},
		{name: "open admits all", callers: []toldCaller{policy(0, 80, ruleOpen)}},
		{name: "closed admits", callers: []toldCaller{policy(0, 1, "shut")}, want: "policies"},
		{name: "came in when told", callers: []toldCaller{refusedThen(104, 105, true)}},
		{name: "did not come in when told", callers: []toldCaller{refusedThen(104, 105, false)}, want: "told"},
		{name: "came in before", callers: []toldCaller{refusedThen(90, 91, true)}, want: "told"},
		{name: "did not come in before", callers: []toldCaller{refusedThen(90, 91, false)}},
		{name: "nobody knows whether it was before", callers: []toldCaller{refusedThen(90, 105, true)}},
		{name: "both counted", callers: []toldCaller{pairOf(true, "store")}, left: map[string]int64{ruleWide: plenty - 1, ruleBrim: 17}},
		{name: "none counted", callers: []toldCaller{pairOf(false, "store")}, left: map[string]int64{ruleWide: plenty, ruleBrim: 20}},
		{name: "one counted", callers: []toldCaller{pairOf(false, "store")}, left: map[string]int64{ruleWide: plenty - 1, ruleBrim: 20}, want: "parts"},
		{name: "admitted and not counted", callers: []toldCaller{pairOf(true, "store")}, left: map[string]int64{ruleWide: plenty, ruleBrim: 20}, want: "parts"},
		{name: "admitted and forgotten", callers: []toldCaller{pairOf(true, "store")}, left: map[string]int64{ruleWide: plenty, ruleBrim: 20}, window: forgets},
		{name: "nobody knows whether it counted", callers: []toldCaller{pairOf(false, "policy")}, left: map[string]int64{ruleWide: plenty - 1, ruleBrim: 17}},
		{name: "settled", callers: []toldCaller{reservedOnce("")}, left: map[string]int64{ruleHeld: plenty - 5}},
		{name: "counted twice", callers: []toldCaller{reservedOnce("")}, left: map[string]int64{ruleHeld: plenty - 8}, want: "once"},
		{name: "maybe settled", callers: []toldCaller{reservedOnce("ratelimit: store: gone")}, left: map[string]int64{ruleHeld: plenty - 3}},
		{name: "settled as something else", callers: []toldCaller{reservedOnce("ratelimit: not reserved")}, left: map[string]int64{ruleHeld: plenty - 3}, want: "answers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &limiting{LimitOptions: LimitOptions{Callers: 2}, site: &site{store: lockRedis}}
			r := &limitRound{d: d, where: "here", key: limitKey, window: c.window}
			if r.window.fault == "" {
				r.window.fault = noFault
			}
			for _, p := range c.callers {
				r.players = append(r.players, p.callerProcess)
			}
			r.told()
			left := map[string]int64{}
			for rule, n := range c.left {
				left[rule+"="+limitKey] = n
			}
			if _, ok := c.left[ruleHeld]; !ok {
				left[ruleHeld+"="+limitKey] = plenty
			}
			r.agree(left)
			for kind, found := range map[string]findings{"bounds": d.bounds, "shares": d.shares, "policies": d.policies, "parts": d.parts,
				"once": d.once, "told": d.told, "goes": d.goes, "answers": d.answers} {
				if wanted := slices.Contains(strings.Fields(c.want), kind); wanted != (len(found) > 0) {
					t.Errorf("%s: %v", kind, found)
				}
			}
		})
	}
}

// Whatever a token bucket could have admitted, however its answers come late, is taken for one.
func TestLimitHistoriesOfABucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := ruleNamed("token")
		unit := int64(rule.unit())
		now, empty := int64(time.Hour), int64(0)
		var all []admitted
		for range rapid.IntRange(1, 80).Draw(t, "calls") {
			now += rapid.Int64Range(0, 2*unit).Draw(t, "gap")
			units := rapid.Int64Range(1, 3).Draw(t, "units")
			if next := max(empty, now) + units*unit; next-now <= rule.burst*unit {
				empty = next
				all = append(all, admitted{now - rapid.Int64Range(0, unit).Draw(t, "asked"), now + rapid.Int64Range(0, unit).Draw(t, "told"), units, 0})
			}
		}
		if text := rule.exceeded(all, window{}); text != "" {
			t.Fatal(text)
		}
	})
}

// Who is answered by the store once has three to wait for again, when it is gone again.
func TestLaterCallsAreThoseInARow(t *testing.T) {
	from := time.Unix(100, 0)
	asked := func(i int, source string) callerEvent {
		at := from.Add(time.Duration(i+1) * time.Millisecond).UnixNano()
		return callerEvent{Kind: "take", Sent: at, At: at + 1, Took: 1, Source: source}
	}
	for _, c := range []struct {
		sources       string // p: by the policy, s: by the store, e: an error
		first, turned int
	}{
		{strings.Repeat("p", 20), 3, 9}, {strings.Repeat("p", 12) + "s" + strings.Repeat("p", 12), 6, 2},
		{strings.Repeat("p", 12) + "e" + strings.Repeat("p", 12), 3, 13}, {"sss", 0, 0},
	} {
		d := &limiting{site: &site{store: lockRedis}}
		r := &limitRound{d: d, began: from, window: window{from: from, to: from.Add(time.Second)}}
		r.store.harms = true
		p := &callerProcess{}
		for i, k := range c.sources {
			e := asked(i, map[rune]string{'p': "policy", 's': "store", 'e': ""}[k])
			if k == 'e' {
				e.Err = "gone"
			}
			p.events = append(p.events, e)
		}
		r.players = append(r.players, p)
		if r.timed(); len(d.first) != c.first || len(d.turned) != c.turned {
			t.Errorf("%s: %d first ones and %d later ones, want %d and %d", c.sources, len(d.first), len(d.turned), c.first, c.turned)
		}
	}
}
