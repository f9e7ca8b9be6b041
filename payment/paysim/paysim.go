// Package paysim is a simulated payment provider: a server with a log of its own, and a client
// that is a payment.Provider.
//
// It keeps what payment.Provider asks for: every call is idempotent by ref, a refusal is final,
// a void of an unknown ref is remembered. What it did is in an append-only file of JSON lines,
// synced before any answer, which outlives the servers that call it; that file is what a drill
// compares with the books.
//
// And it is honest about failure. Faults are dealt from a shuffled deck, so that a short run
// has each of them: it answers late, does not answer after it has acted, cuts the connection,
// handles a request a second time later on, refuses an authorisation, refuses a capture for
// good, captures at once.
//
// It is for demonstrations and tests. No money moves.
package paysim

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Fault is what goes wrong with one request.
type Fault string

// The faults.
const (
	None          Fault = "none"
	Late          Fault = "late"           // answers after LateBy
	Timeout       Fault = "timeout"        // acts, and never answers
	Cut           Fault = "cut"            // acts, and cuts the connection
	Duplicate     Fault = "duplicate"      // handles the request again, later
	RefuseAuth    Fault = "refuse_auth"    // refuses the authorisation
	RefuseCapture Fault = "refuse_capture" // refuses every capture of this ref
	CaptureAtOnce Fault = "capture_at_once"
)

// Rates says how many of 100 requests get each fault. Refusals and CaptureAtOnce concern
// authorisations, and are counted among those.
type Rates map[Fault]int

// Standard is a bad night: one request in five has a fault.
func Standard() Rates {
	return Rates{Late: 4, Timeout: 3, Cut: 4, Duplicate: 3, RefuseAuth: 2, RefuseCapture: 2, CaptureAtOnce: 2}
}

func (r Rates) validate() error {
	sum := 0
	for f, n := range r {
		switch f {
		case Late, Timeout, Cut, Duplicate, RefuseAuth, RefuseCapture, CaptureAtOnce:
		default:
			return fmt.Errorf("paysim: unknown fault %q", f)
		}
		if n < 0 {
			return fmt.Errorf("paysim: a negative rate for %s", f)
		}
		sum += n
	}
	if sum > 100 {
		return fmt.Errorf("paysim: the rates sum to %d, more than 100", sum)
	}
	return nil
}

// dealer deals faults from a deck that is shuffled anew each time it is used up, so that each
// comes as often as its rate says and not as luck has it.
type dealer struct {
	mu    sync.Mutex
	rng   *rand.Rand
	cards []Fault
	deck  []Fault
	dealt map[Fault]int
}

// deckSize is small enough that a short run has seen every fault.
const deckSize = 100

func newDealer(rates Rates, seed uint64, faults ...Fault) *dealer {
	d := &dealer{rng: rand.New(rand.NewPCG(seed, uint64(len(faults)))), dealt: map[Fault]int{}}
	for _, f := range faults {
		for range rates[f] {
			d.cards = append(d.cards, f)
		}
	}
	for len(d.cards) < deckSize {
		d.cards = append(d.cards, None)
	}
	return d
}

func (d *dealer) deal() Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.deck) == 0 {
		d.deck = append(d.deck, d.cards...)
		d.rng.Shuffle(len(d.deck), func(i, j int) { d.deck[i], d.deck[j] = d.deck[j], d.deck[i] })
	}
	f := d.deck[0]
	d.deck = d.deck[1:]
	d.dealt[f]++
	return f
}

func (d *dealer) counts(into map[Fault]int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for f, n := range d.dealt {
		if f != None {
			into[f] += n
		}
	}
}

// Options of New.
type Options struct {
	Log    string        // the file; it is created, or continued
	Rates  Rates         // nil: no faults
	Seed   uint64        // of the decks
	LateBy time.Duration // default 300ms
	HangBy time.Duration // how long a request that is never answered is kept open; default 3s
}
