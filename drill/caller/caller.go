// Package caller is the programs that the limit drill lets loose: processes that ask the rules of one file, all at once
// and each at its own pace.
//
// Promised: a caller writes down when it asked and when it was answered, one line a call, so that what it was told can
// be held against the rules from outside whenever it ends. It judges nothing. Which rules it asks, and for how many
// units, its seed decides.
package caller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/drill/journal"
)

// Options of Run and Look.
type Options struct {
	Store     string // URL of the store that the limits are in; empty: API
	API       string // http://HOST of a server with /v1/limits
	Rules     string // file, for Store
	Log       string // file
	Seed      uint64
	Who       int
	Processes int    // that there are
	Key       string // whose limits: those of this round
	Gap       time.Duration
	Timeout   time.Duration // for the store's answers
}

// The rules of the file that the drill writes, by name; they are all in one domain.
const (
	domain = "drill"
	slots  = "slots" // of concurrency
	wide   = "wide"  // are asked together: brim is soon full, wide never
	brim   = "brim"
	held   = "held" // for reservations
	open   = "open"
	shut   = "shut"
)

// paced are the rules of a rate.
var paced = []string{"token", "leaky", "fixed", "counter", "log"}

const (
	beat      = 200 * time.Millisecond
	slotters  = 2 // goroutines that hold slots
	longSlot  = 60 * time.Millisecond
	brimTime  = 700 * time.Millisecond // then another brim is filled
	cleanTime = time.Second
)

// Event is a line of a caller's journal. The drill reads the same by a type of its own.
type Event struct {
	At      int64  `json:"at"` // ns since 1970: it was answered
	Kind    string `json:"kind"`
	Op      int64  `json:"op,omitempty"`
	Rule    string `json:"rule,omitempty"`
	Key     string `json:"key,omitempty"`
	Units   int64  `json:"units,omitempty"`
	Sent    int64  `json:"sent,omitempty"` // ns since 1970
	Took    int64  `json:"took,omitempty"` // ns
	Allowed bool   `json:"allowed,omitempty"`
	Source  string `json:"source,omitempty"`
	Wait    int64  `json:"wait,omitempty"` // ns
	Left    int64  `json:"left,omitempty"`
	Live    int    `json:"live,omitempty"`
	For     int64  `json:"for,omitempty"` // ns
	Err     string `json:"err,omitempty"`
}

// caller is one that runs.
type caller struct {
	Options
	limits limits
	log    *journal.Journal
	began  time.Time

	mu sync.Mutex
	op int64
}

func (c *caller) write(e Event) {
	c.log.Write(func(at int64) any {
		e.At = at
		return e
	})
}

func (c *caller) next() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.op++
	return c.op
}

// Run asks until ctx is done; then it ends what it has begun.
func Run(ctx context.Context, o Options) error {
	return with(ctx, o, func(c *caller) {
		var all sync.WaitGroup
		all.Go(func() { c.mixed(ctx) })
		all.Go(func() { c.alone(ctx) })
		for i := range slotters {
			all.Go(func() { c.slots(ctx, i) })
		}
		all.Go(func() { c.neighbours(ctx) })
		all.Go(func() {
			journal.WatchStalls(ctx, func(took time.Duration) { c.write(Event{Kind: "stall", For: took.Nanoseconds()}) })
		})
		all.Wait()
	})
}

// Look writes down what is left of some rules, "rule=key" each, once the store says so.
func Look(ctx context.Context, o Options, of []want) error {
	return with(ctx, o, func(c *caller) {
		for _, w := range of {
			for ctx.Err() == nil {
				a, err := c.limits.look(ctx, w)
				if err == nil && a.source == fromStore {
					c.write(Event{Kind: "look", Rule: w.rule, Key: w.key, Left: a.left})
					break
				}
				pause(ctx, 20*time.Millisecond)
			}
		}
	})
}

func with(ctx context.Context, o Options, do func(*caller)) (err error) {
	log, err := journal.Open(o.Log)
	if err != nil {
		return err
	}
	l, err := openLimits(ctx, o)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	do(&caller{Options: o, limits: l, log: log, began: time.Now()})
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
	defer cancel()
	return errors.Join(l.close(clean), log.Close())
}

func (c *caller) dice(stream uint64) *rand.Rand {
	return rand.New(rand.NewPCG(c.Seed, uint64(c.Who)<<8|stream))
}

// neighbours notes how many processes this one knows of.
func (c *caller) neighbours(ctx context.Context) {
	for last := 0; ctx.Err() == nil; pause(ctx, beat/4) {
		if n := c.limits.live(); n != last {
			c.write(Event{Kind: "live", Live: n})
			last = n
		}
	}
}

// answered notes a decision.
func (c *caller) answered(e Event, sent time.Time, took time.Duration, a answer, err error) {
	e.Sent, e.Took = sent.UnixNano(), took.Nanoseconds()
	e.Allowed, e.Source, e.Wait = a.allowed, a.source, a.wait.Nanoseconds()
	if err != nil {
		e.Err = err.Error()
	}
	c.write(e)
}

// ask takes what is wanted and notes the answer.
func (c *caller) ask(ctx context.Context, e Event, what ...want) answer {
	sent := time.Now()
	a, err := c.limits.take(context.WithoutCancel(ctx), what...)
	c.answered(e, sent, time.Since(sent), a, err)
	return a
}

// mixed asks all kinds of rules, one call after the other.
func (c *caller) mixed(ctx context.Context) {
	dice := c.dice(0)
	for ; ctx.Err() == nil; pause(ctx, time.Duration(dice.Int64N(2*int64(c.Gap)))) {
		units := 1 + dice.Int64N(2)
		switch n := dice.IntN(len(paced) + 4); n {
		case len(paced):
			key := fmt.Sprintf("%s-%d", c.Key, time.Now().UnixNano()/int64(brimTime))
			e := Event{Kind: "pair", Op: c.next(), Key: key, Units: 3}
			c.write(Event{Kind: "ask", Op: e.Op, Key: key, Rule: "pair"})
			c.ask(ctx, e, want{wide, key, 1}, want{brim, key, e.Units})
		case len(paced) + 1:
			c.reserve(ctx, dice)
		case len(paced) + 2:
			c.ask(ctx, Event{Kind: "take", Rule: open, Key: c.Key, Units: units}, want{open, c.Key, units})
		case len(paced) + 3:
			c.ask(ctx, Event{Kind: "take", Rule: shut, Key: c.Key, Units: units}, want{shut, c.Key, units})
		default:
			c.ask(ctx, Event{Kind: "take", Rule: paced[n], Key: c.Key, Units: units}, want{paced[n], c.Key, units})
		}
	}
}

// reserve takes units by an id, often again as after an answer that was lost, and settles most of them.
func (c *caller) reserve(ctx context.Context, dice *rand.Rand) {
	ctx = context.WithoutCancel(ctx)
	op, units := c.next(), 1+dice.Int64N(4)
	id := fmt.Sprintf("%s-%d-%d", c.Key, c.Who, op)
	c.write(Event{Kind: "ask", Op: op, Key: c.Key, Rule: held, Units: units})
	var a answer
	for range 1 + dice.IntN(3) {
		sent := time.Now()
		var err error
		a, err = c.limits.reserve(ctx, id, want{held, c.Key, units})
		c.answered(Event{Kind: "reserved", Op: op, Rule: held, Key: c.Key, Units: units}, sent, time.Since(sent), a, err)
	}
	if a.settle == nil || dice.IntN(4) == 0 {
		return // the guess stays
	}
	actual := dice.Int64N(2*units + 1)
	c.write(Event{Kind: "settles", Op: op, Units: actual})
	for range 1 + dice.IntN(2) {
		e := Event{Kind: "settled", Op: op, Units: actual}
		if err := a.settle(ctx, actual); err != nil {
			e.Err = err.Error()
		}
		c.write(e)
	}
}

// slots holds slots for a moment each.
func (c *caller) slots(ctx context.Context, i int) {
	dice := c.dice(uint64(2 + i))
	for ctx.Err() == nil {
		op := c.next()
		a := c.ask(ctx, Event{Kind: "slot", Op: op, Rule: slots, Key: c.Key, Units: 1}, want{slots, c.Key, 1})
		if !a.allowed {
			pause(ctx, time.Duration(3+dice.Int64N(8))*time.Millisecond)
			continue
		}
		pause(ctx, longSlot/4+time.Duration(dice.Int64N(int64(longSlot))))
		c.write(Event{Kind: "free", Op: op})
		e := Event{Kind: "freed", Op: op}
		if err := a.release(context.WithoutCancel(ctx)); err != nil {
			e.Err = err.Error()
		}
		c.write(e)
	}
}

// How much before its time a caller comes back, to be refused, and how much after it.
const (
	early = 8 * time.Millisecond
	late  = 3 * time.Millisecond
)

// alone asks for what nobody else asks for, so that it is the only reason why it is refused, and comes back when it
// was told, or a little before. When the store has not answered, nobody knows what it will do yet: another key then.
func (c *caller) alone(ctx context.Context) {
	dice, keys := c.dice(1), 0
	for turn := 0; ctx.Err() == nil; turn++ {
		rule, units := paced[turn%len(paced)], 1+dice.Int64N(3)
		ask := func() (a answer, known bool) {
			key := fmt.Sprintf("%s-%d-%d", c.Key, c.Who, keys)
			a = c.ask(ctx, Event{Kind: "alone", Rule: rule, Key: key, Units: units}, want{rule, key, units})
			if a.source != fromStore {
				keys++
			}
			return a, a.source == fromStore
		}
		a, known := ask()
		for known && a.allowed && ctx.Err() == nil {
			pause(ctx, time.Millisecond)
			a, known = ask()
		}
		if known && a.wait > 2*early && dice.IntN(3) == 0 {
			if pause(ctx, a.wait-early); ctx.Err() == nil {
				a, known = ask()
			}
		}
		if known && !a.allowed {
			if pause(ctx, a.wait+late); ctx.Err() == nil {
				_, known = ask()
			}
		}
		if !known {
			pause(ctx, 20*time.Millisecond)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
