package ratelimit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/store"
)

// fleet is processes that lease from one rule, simulated in steps of a millisecond: the decisions are the real ones on
// a store in memory, everything else (network, clocks, callers) is the test's.
type fleet struct {
	rate
	parts          int64
	clock          atomic.Int64 // the engine's, µs
	true           int64        // time that passes for everybody, µs
	store          *store.Store
	key            string
	r              *rand.Rand
	procs          []*proc
	at             []int64 // admitted units by the engine's clock, a millisecond each, since began
	began          int64
	asked, stricts int
	faulty         faults
}

// faults are what happens, one time in so many; 0: never.
type faults struct {
	lost, late, pause, die, jump int
	delay                        int64 // ms, each way, at most
}

type proc struct {
	*holder
	drift  float64
	name   int
	dead   bool
	wakes  int64 // true time
	flight *message
}

// message is a request of a process on its way there, or back.
type message struct {
	in    leaseIn
	out   leaseOut
	sent  time.Duration // by the process' clock
	due   int64         // true time of the next event
	gives int64         // true time when the process gives it up
	there bool
	lost  bool
}

const simulatedWait = 25_000 // µs for an answer

func newFleet(t fataler, r rate, parts int64, n int, f faults, seed uint64) *fleet {
	s := &fleet{rate: r, parts: parts, faulty: f, r: rand.New(rand.NewPCG(seed, 0))}
	s.clock.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro() / 60_000_000 * 60_000_000)
	s.began = s.clock.Load()
	db, err := store.Open(context.Background(), "mem:", store.Options{Clock: func() time.Time { return time.UnixMicro(s.clock.Load()) }})
	if err != nil {
		t.Fatal(err)
	}
	s.store, s.key = db, "limit:{fleet}:"+r.kind
	for i := range n {
		s.procs = append(s.procs, &proc{holder: &holder{}, name: i, drift: 1 + (s.r.Float64()-0.5)/100})
	}
	return s
}

// local is a process' monotonic clock.
func (s *fleet) local(p *proc) time.Duration {
	return time.Duration(float64(s.true)*p.drift) * time.Microsecond
}

func (s *fleet) chance(n int) bool { return n > 0 && s.r.IntN(n) == 0 }

// step lets a millisecond pass; wants are the calls of each process in it.
func (s *fleet) step(t fataler, wants []int, flights *[]*message) {
	s.true += 1000
	s.clock.Add(1000)
	if s.chance(s.faulty.jump) {
		s.clock.Add(1000 * (1 + s.r.Int64N(600)))
	}
	s.deliver(t, flights)
	for i, p := range s.procs {
		switch {
		case p.dead || p.wakes > s.true:
			continue
		case s.chance(s.faulty.die):
			p.dead = true
			continue
		case s.chance(s.faulty.pause):
			p.wakes = s.true + 1000*s.r.Int64N(2000)
			continue
		}
		s.run(t, p, wants[i], flights)
	}
}

// deliver is what the network does.
func (s *fleet) deliver(t fataler, flights *[]*message) {
	rest := (*flights)[:0]
	for _, m := range *flights {
		if !m.there && m.due <= s.true {
			m.there = true
			out, err := leaseDecision.Do(context.Background(), s.store, m.in)
			if err != nil {
				t.Fatal(err)
			}
			s.asked++
			m.out, m.due = out, s.true+1000*s.r.Int64N(s.faulty.delay+1)
			m.lost = s.chance(s.faulty.lost)
		}
		if !m.there || m.due > s.true {
			rest = append(rest, m)
		}
	}
	*flights = rest
}

// run is a millisecond of a process.
func (s *fleet) run(t fataler, p *proc, calls int, flights *[]*message) {
	if m := p.flight; m != nil {
		switch {
		case m.there && m.due <= s.true && !m.lost:
			p.answered(m.sent, m.in, m.out)
			p.flight = nil
		case s.true >= m.gives:
			p.lost(s.local(p))
			p.flight = nil
		}
	}
	if n := p.surplus(s.local(p)); n > 0 && p.flight == nil && s.true%50_000 == 0 {
		s.send(p, n, 0, flights)
	}
	for range calls {
		v, more := p.take(s.local(p), 1)
		switch v {
		case leaseTook:
			s.admit(1)
		case leaseStrict:
			in := takeIn{Keys: []string{s.key}, Rules: []string{s.kind, strconv.FormatInt(s.most, 10), strconv.FormatInt(s.span, 10), "1", "0"}}
			out, err := take.Do(context.Background(), s.store, in)
			if err != nil {
				t.Fatal(err)
			}
			s.asked++
			s.admit(out.Outcome)
			s.stricts++
			p.decided(s.local(p), out.Outcome == refused, num(out.States[1]), micros(out.States[2]))
		case leaseAsk:
			if p.flight == nil {
				s.send(p, 0, 1, flights)
			}
			return // the callers wait for it, and come again
		}
		if more && p.flight == nil {
			s.send(p, 0, 1, flights)
		}
	}
}

func (s *fleet) send(p *proc, giving, cost int64, flights *[]*message) {
	in := p.request(s.local(p), giving, cost)
	in.Key, in.Record, in.Kind, in.Most, in.Span, in.Parts = s.key, fmt.Sprint(s.key, ":", p.name), s.kind, s.most, s.span, s.parts
	p.flight = &message{in: in, sent: s.local(p), due: s.true + 1000*s.r.Int64N(s.faulty.delay+1), gives: s.true + simulatedWait}
	if s.chance(s.faulty.late) {
		p.flight.due += 1000 * s.r.Int64N(1000)
	}
	*flights = append(*flights, p.flight)
}

func (s *fleet) admit(n int64) {
	at := int((s.clock.Load() - s.began) / 1000)
	for len(s.at) <= at {
		s.at = append(s.at, 0)
	}
	s.at[at] += n
}

// share is the most that a process holds.
func (s *fleet) share() int64 { return max(s.most/s.parts, 1) }

// exceeded holds what was admitted in every interval against the formula of the documentation.
func (s *fleet) exceeded(extra int64) string {
	sums := make([]int64, len(s.at)+1)
	for i, n := range s.at {
		sums[i+1] = sums[i] + n
	}
	for from := range s.at {
		if s.at[from] == 0 {
			continue
		}
		for to := from; to < len(s.at); to++ {
			sum, d := sums[to+1]-sums[from], int64(to-from)*1000
			var most int64
			switch s.kind {
			case kindToken:
				most = s.most + d/s.span
			case kindCounter:
				most = s.most + s.most*d/s.span
			case kindFixed:
				first, last := (s.began+int64(from)*1000)/s.span, (s.began+int64(to)*1000)/s.span
				most = s.most * (last - first + 1)
			}
			if sum > most+extra {
				return fmt.Sprintf("%d units in %d ms from %d, more than %d + %d", sum, to-from, from, most, extra)
			}
		}
	}
	return ""
}

// traffic is uneven and changes: at any time one process has most of it.
type traffic struct {
	total int // calls a millisecond
	r     *rand.Rand
	until int
	heavy int
	quiet bool // now and then
	wants []int
}

func (l *traffic) next(ms int) []int {
	if ms >= l.until {
		l.until = ms + 20 + l.r.IntN(250)
		l.heavy = l.r.IntN(len(l.wants))
		for i := range l.wants {
			l.wants[i] = 0
			if l.r.IntN(3) == 0 {
				l.wants[i] = l.r.IntN(l.total/4 + 2)
			}
		}
	}
	if l.wants[l.heavy] = l.total; l.quiet && l.until%3 == 0 { // a while in which nobody wants much
		l.wants[l.heavy] = 0
	}
	return l.wants
}

var leasedRates = []rate{{kindFixed, 1000, 200_000}, {kindCounter, 3000, 500_000}, {kindToken, 2000, 200}, {kindFixed, 40, 200_000}}

// Whatever happens to processes, messages and clocks, no more is admitted than the formula says: for windows the
// algorithm's own bound, and what all processes can hold for each jump of the engine's clock; for a bucket its bound,
// and what all processes can hold.
func TestFleetBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rapid.SampledFrom(leasedRates).Draw(t, "rate")
		f := faults{
			lost: rapid.SampledFrom([]int{0, 3, 10}).Draw(t, "lost"), late: rapid.SampledFrom([]int{0, 5}).Draw(t, "late"),
			pause: rapid.SampledFrom([]int{0, 500}).Draw(t, "pause"), die: rapid.SampledFrom([]int{0, 2000}).Draw(t, "die"),
			jump: rapid.SampledFrom([]int{0, 0, 700}).Draw(t, "jump"), delay: rapid.Int64Range(0, 20).Draw(t, "delay"),
		}
		n := rapid.IntRange(1, 8).Draw(t, "processes")
		s := newFleet(t, r, rapid.SampledFrom([]int64{2, 10, 100}).Draw(t, "parts"), n, f, rapid.Uint64().Draw(t, "seed"))
		defer func() { _ = s.store.Close() }()
		l := traffic{total: rapid.IntRange(1, 40).Draw(t, "calls"), r: s.r, quiet: true, wants: make([]int, n)}
		var flights []*message
		jumps := int64(0)
		for ms := range 1000 {
			before := s.clock.Load()
			s.step(t, l.next(ms), &flights)
			if s.clock.Load() != before+1000 {
				jumps++
			}
		}
		extra := jumps * int64(n) * s.share()
		if s.kind == kindToken {
			extra = int64(n) * s.share()
		}
		if why := s.exceeded(extra); why != "" {
			t.Fatalf("%+v, %d processes, one part in %d, %+v: %s", r, n, s.parts, f, why)
		}
	})
}

// With more wanted than there is, 98% of what the store alone would have admitted is admitted, however uneven the load
// and although answers are lost. A process that dies takes with it what it holds, and no more.
func TestFleetUses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rapid.SampledFrom([]rate{{kindFixed, 12_000, 2_000_000}, {kindCounter, 12_000, 2_000_000}, {kindToken, 8000, 200}}).Draw(t, "rate")
		n := rapid.IntRange(1, 8).Draw(t, "processes")
		f := faults{lost: rapid.SampledFrom([]int{0, 20}).Draw(t, "lost"), delay: 1}
		s := newFleet(t, r, 100, n, f, rapid.Uint64().Draw(t, "seed"))
		defer func() { _ = s.store.Close() }()
		l := traffic{total: 30, r: s.r, wants: make([]int, n)}
		alone := newFleet(t, r, 100, 1, faults{}, 0)
		defer func() { _ = alone.store.Close() }()
		var flights []*message
		dies, calls := rapid.IntRange(0, 3999).Draw(t, "dies"), int64(0)
		for ms := range 4000 {
			wants := l.next(ms)
			if ms == dies && n > 1 {
				s.procs[l.heavy].dead = true
			}
			for i, p := range s.procs { // who is dead has no callers, and somebody else has them
				if p.dead && wants[i] > 0 {
					wants[(i+1)%n] += wants[i]
					wants[i] = 0
				}
			}
			s.step(t, wants, &flights)
			for _, n := range wants {
				calls += int64(n)
			}
			if ms%5 == 4 {
				alone.reference(t, 5, calls)
				calls = 0
			}
			if l.wants[l.heavy] == 0 {
				l.until = 0
			}
		}
		got, want := sum(s.at), sum(alone.at)
		t.Logf("%s n=%d lost=%d: %d of %d, asked %d leases %d stricts", s.kind, n, f.lost, got, want, s.asked-s.stricts, s.stricts)
		if f.lost == 0 && s.asked-s.stricts > 4*1000 {
			t.Fatalf("%+v, %d processes: %d requests for leases in 4 s", r, n, s.asked-s.stricts)
		}
		if dies := s.share(); got < want*98/100-dies {
			t.Fatalf("%+v, %d processes, lost 1 in %d: %d of %d were admitted (%.1f%%), with %d round trips", r, n, f.lost, got, want, 100*float64(got)/float64(want), s.asked)
		}
	})
}

// reference is what the store alone admits of the calls of so many milliseconds.
func (s *fleet) reference(t fataler, ms, calls int64) {
	s.clock.Add(1000 * ms)
	in := takeIn{Keys: []string{s.key}, Mode: modeLook, Rules: []string{s.kind, strconv.FormatInt(s.most, 10), strconv.FormatInt(s.span, 10), "1", "0"}}
	out, err := take.Do(context.Background(), s.store, in)
	if err != nil {
		t.Fatal(err)
	}
	if n := min(calls, num(out.States[1])); n > 0 {
		in.Mode, in.Rules[3] = modeTake, strconv.FormatInt(n, 10)
		if out, err = take.Do(context.Background(), s.store, in); err != nil || out.Outcome != taken {
			t.Fatal(out, err)
		}
		s.admit(n)
	}
}

func sum(all []int64) (n int64) {
	for _, k := range all {
		n += k
	}
	return n
}

type fataler interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}
