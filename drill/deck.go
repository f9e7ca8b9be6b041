package drill

import (
	"math/rand/v2"
	"sync"
)

// share is how often a card is in a deck.
type share[T any] struct {
	card T
	n    int
}

// deck deals cards; it is shuffled anew each time it is used up. So a short run has every kind
// of card, in an order that luck decides and the seed repeats.
type deck[T any] struct {
	mu    sync.Mutex
	rng   *rand.Rand
	cards []T
	left  []T
}

// newDeck makes one of a run's decks; stream tells them apart.
func newDeck[T any](seed, stream uint64, shares ...share[T]) *deck[T] {
	d := &deck[T]{rng: rand.New(rand.NewPCG(seed, stream))}
	for _, s := range shares {
		for range s.n {
			d.cards = append(d.cards, s.card)
		}
	}
	return d
}

func (d *deck[T]) deal() T {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.left) == 0 {
		d.left = append(d.left, d.cards...)
		d.rng.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	card := d.left[0]
	d.left = d.left[1:]
	return card
}

// sending is how a request for a hold travels.
type sending int

const (
	sendPlainly sending = iota
	sendTwice           // two requests with one key at the same time
	sendCut             // the connection is cut behind the request; then again with the same key
)

// behavior is what a buyer does with a hold.
type behavior int

const (
	payPlainly  behavior = iota
	payTwice             // one payment, sent twice at the same time
	payTwoKeys           // two payments for one hold
	payCut               // the connection is cut behind the payment; then again with the same key
	repeatFirst          // asks for the hold again, later, before paying
	reuseKey             // sends another body with the hold's key, before paying
	vanishNow            // is never seen again
	giveBack             // releases the hold
)

func (r *run) shuffle() {
	r.sendings = newDeck(r.Seed, 1, share[sending]{sendPlainly, 13}, share[sending]{sendTwice, 4}, share[sending]{sendCut, 3})
	r.behaviors = newDeck(r.Seed, 2,
		share[behavior]{payPlainly, 6}, share[behavior]{payTwice, 2}, share[behavior]{payTwoKeys, 2},
		share[behavior]{payCut, 2}, share[behavior]{repeatFirst, 2}, share[behavior]{reuseKey, 2},
		share[behavior]{vanishNow, 2}, share[behavior]{giveBack, 2})
	// How many units a buyer wants; 3 is beyond the limit.
	r.wants = newDeck(r.Seed, 3, share[int]{1, 12}, share[int]{2, 5}, share[int]{3, 3})
}
