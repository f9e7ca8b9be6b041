package drill

import (
	"context"
	"math/rand/v2"
	"time"
)

// plannedLimit is a round as the seed decides it, before anything runs.
type plannedLimit struct {
	caller string // what happens to callers, at the same time as
	store  limitFault
	held   time.Duration // that the store's fault lasts at least
	late   time.Duration // that a stopped caller is stopped at least
	dice   uint64        // of what is decided on the way, and of the callers
}

// rng is for what the store's fault decides on the way.
func (p plannedLimit) rng() *rand.Rand { return rand.New(rand.NewPCG(p.dice, 0)) }

// What happens to callers, each while it holds a slot.
const (
	pauseCaller = "pause-caller" // past the slot's lease
	killCaller  = "kill-caller"
)

// Faults of limits' stores beside those of locks.
const (
	blackHole = "black-hole" // nothing comes through to it, or back
	slowStore = "slow"       // it answers later than anybody waits
)

func limitFaultNames() []string {
	return []string{noFault, killEngine, pauseEngine, blackHole, slowStore, isolateNodes}
}

// Streams of the drill's random numbers.
const (
	streamCallers = 21 + iota
	streamLimitStore
	streamLimitRounds
)

func (d *limiting) plan(cards []limitFault) (rounds []plannedLimit) {
	callers := newDeck(d.Seed, streamCallers, share[string]{pauseCaller, 1}, share[string]{killCaller, 1})
	var shares []share[limitFault]
	for _, c := range cards {
		shares = append(shares, share[limitFault]{c, 1})
	}
	faults := newDeck(d.Seed, streamLimitStore, shares...)
	rng := rand.New(rand.NewPCG(d.Seed, streamLimitRounds))
	span := func(from, to time.Duration) time.Duration { return from + time.Duration(rng.Int64N(int64(to-from))) }
	for range d.Rounds {
		rounds = append(rounds, plannedLimit{callers.deal(), faults.deal(), span(800*time.Millisecond, 1600*time.Millisecond),
			span(slotLease*5/4, slotLease*5/2), rng.Uint64()})
	}
	return rounds
}

// limitFault is something that happens to a store while callers ask it.
type limitFault struct {
	storeFault
	harms bool // it does not answer for a while
}

// slowBy is more than any caller waits.
const slowBy = 700 * time.Millisecond

// fault is what a name means here, or why that cannot happen.
func (d *limiting) fault(name string) (limitFault, string) {
	if name != blackHole && name != slowStore {
		f, why := d.engine.harmed(name)
		return limitFault{f, name == pauseEngine || name == isolateNodes}, why
	}
	gates := d.engine.gates()
	if len(gates) == 0 {
		return limitFault{}, "callers ask the nodes without a proxy: " + isolateNodes
	}
	return limitFault{storeFault{name: name, hit: func(ctx context.Context, held time.Duration, rng *rand.Rand) (string, error) {
		hangUp := rng.IntN(2) == 0
		for _, gate := range gates {
			if name == blackHole {
				gate.cut(true, true)
			} else {
				gate.slow(slowBy)
			}
		}
		pauseFor(ctx, held)
		for _, gate := range gates {
			gate.slow(0)
			gate.mend(hangUp)
		}
		return "", ctx.Err()
	}}, true}, ""
}
