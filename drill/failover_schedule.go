package drill

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A round is decided before anything runs, by the seed alone.
type plannedRound struct {
	fault nodeFault
	held  time.Duration // from the fault to its mending
	dice  uint64        // of what the fault decides for itself
}

// Streams of random numbers that one seed gives. A client's are its commands' and its pauses'.
const (
	streamDeck = 1 + iota
	streamRounds
	streamClients
)

// plan deals the rounds.
func (f *failover) plan(cards []nodeFault) []plannedRound {
	var shares []share[nodeFault]
	for _, fault := range cards {
		shares = append(shares, share[nodeFault]{fault, 1})
	}
	deck := newDeck(f.Seed, streamDeck, shares...)
	if f.Against != "" { // what tells the two apart most comes first, however short the run is
		deck.left = slices.Clone(deck.cards)
		deck.rng.Shuffle(len(deck.left), func(i, j int) { deck.left[i], deck.left[j] = deck.left[j], deck.left[i] })
		if i := slices.IndexFunc(deck.left, func(n nodeFault) bool { return n.name == "isolate-leader" }); i > 0 {
			deck.left[0], deck.left[i] = deck.left[i], deck.left[0]
		}
	}
	rng := rand.New(rand.NewPCG(f.Seed, streamRounds))
	var rounds []plannedRound
	for range f.Rounds {
		fault := deck.deal()
		rounds = append(rounds, plannedRound{fault, f.shortest() + time.Duration(rng.Int64N(int64(f.shortest()))), rng.Uint64()})
	}
	return rounds
}

// shortest time that a fault lasts. Sentinels take their time to notice one.
func (f *failover) shortest() time.Duration {
	if f.Against != "" {
		return 2500 * time.Millisecond
	}
	return 1200 * time.Millisecond
}

// clientDice are the random numbers of one client in one round: for its commands, and for its pauses, so that what
// it asks does not depend on how often it had to look for a node.
func clientDice(seed uint64, round, who int) (commands, pauses *rand.Rand) {
	stream := streamClients + 2*uint64(round*(stormClients+audience)+who)
	return rand.New(rand.NewPCG(seed, stream)), rand.New(rand.NewPCG(seed, stream+1))
}
