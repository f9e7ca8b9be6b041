package drill

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// plannedLock is a round as the seed decides it, before anything runs.
type plannedLock struct {
	holder string // what happens to holders, at the same time as
	store  lockFault
	held   time.Duration // that the store's fault lasts at least
	late   time.Duration // that a stopped holder is stopped at least
	dice   uint64        // of what is decided on the way, and of the holders
}

// rng is for what the store's fault decides on the way.
func (p plannedLock) rng() *rand.Rand { return rand.New(rand.NewPCG(p.dice, 0)) }

// What happens to holders.
const (
	pauseHolder = "pause-holder" // stopped past its lease, before it writes
	killHolder  = "kill-holder"
	killWaiter  = "kill-waiter"
)

// leaseTTL is the leases' life in the drill.
const leaseTTL = 500 * time.Millisecond

// Streams of the drill's random numbers.
const (
	streamHolders = 11 + iota
	streamStore
	streamLockRounds
)

func (d *locking) plan(cards []lockFault) (rounds []plannedLock) {
	holders := newDeck(d.Seed, streamHolders, share[string]{pauseHolder, 3}, share[string]{killHolder, 1}, share[string]{killWaiter, 1})
	var shares []share[lockFault]
	for _, c := range cards {
		shares = append(shares, share[lockFault]{c, 1})
	}
	faults := newDeck(d.Seed, streamStore, shares...)
	rng := rand.New(rand.NewPCG(d.Seed, streamLockRounds))
	span := func(from, to float64) time.Duration {
		return time.Duration((from + rng.Float64()*(to-from)) * float64(leaseTTL))
	}
	for range d.Rounds {
		rounds = append(rounds, plannedLock{holders.deal(), faults.deal(), span(1.5, 3), span(1.2, 3), rng.Uint64()})
	}
	return rounds
}

// dealt are the faults that were asked for, all of them by default, and can happen.
func dealt[F any](asked, names []string, fault func(name string) (f F, why string)) (cards []F, skipped []SkippedFault, err error) {
	skipped = []SkippedFault{}
	for _, name := range names {
		if len(asked) > 0 && !slices.Contains(asked, name) {
			continue
		}
		f, why := fault(name)
		if why != "" {
			skipped = append(skipped, SkippedFault{name, why})
			continue
		}
		cards = append(cards, f)
	}
	if len(cards) == 0 {
		return nil, nil, fmt.Errorf("drill: none of these faults can happen here: %v", skipped)
	}
	return cards, skipped, nil
}
