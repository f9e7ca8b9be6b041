package ratelimit

import (
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

// holder is what one process holds of one key's budget. It has no lock, no clock and no connection: its owner calls it
// under one, with the process' monotonic time, and carries its requests. So a fleet of them can be simulated.
type holder struct {
	held  int64         // units that can be used until until
	full  int64         // when it was last answered
	until time.Duration // local end of the lease

	// What the store knows, or will: sums since the epoch of its last answer.
	seq, epoch, known, back int64
	left                    int64         // units that it could have given, when it last answered
	more                    time.Duration // when it will have more, as it said

	tick      time.Duration // the tick that is being counted
	now, last int64         // units that were asked for in it, and in the one before
	pause     time.Duration // between requests while the store has too little
	noneUntil time.Duration // before that it is not asked for more
	strict    time.Duration // before that calls go to the store: the lease would end at once
	losses    int           // requests without an answer, in a row
	asking    bool          // a request is on its way
	used      time.Duration // when somebody last asked
}

const (
	leaseTick = 100 * time.Millisecond // demand is counted by that
	// hotCalls is how many units are asked for in a tick of a key that is leased: with fewer, leases would
	// cost more than they save.
	hotCalls = 20
	// fewLeased is a share that is too small to be leased.
	fewLeased = 4
	// leaseLife is how long a process uses what it has leased, at most.
	leaseLife = time.Second
	// A store that has too little to give is asked again after pauses that double from the first to the longest.
	firstLeasePause = 20 * time.Millisecond
	longLeasePause  = 80 * time.Millisecond
)

// verdict of a holder.
type verdict int

const (
	leaseTook   verdict = iota // units were used
	leaseNone                  // there are none, nor will the store have any: refused
	leaseAsk                   // send a request, and come again
	leaseStrict                // let the store decide this call
)

// take decides a call that wants cost units. more says that a request should be sent beside.
func (h *holder) take(at time.Duration, cost int64) (v verdict, more bool) {
	h.count(at, cost)
	want := h.demand()
	if at < h.until && h.held >= cost || mutant.LeaseEndless && h.held >= cost {
		h.held -= cost
		return leaseTook, h.held < min(want, h.full)/2 && at >= h.noneUntil && at >= h.strict && !h.asking
	}
	switch {
	case want < hotCalls:
		return leaseStrict, false
	case at < h.noneUntil || h.asking && h.left < cost && at < h.more:
		return leaseNone, false
	case at < h.strict:
		return leaseStrict, false
	case h.full > 0 && (cost > h.full || h.full < fewLeased) && h.left >= cost && at < h.more:
		return leaseStrict, false // its share of what is left is smaller, or not worth a request
	}
	return leaseAsk, false
}

// untake gives back what take has taken when epoch and seq were these.
func (h *holder) untake(cost, epoch, seq int64) {
	switch {
	case epoch != h.epoch: // it would have ended
	case seq != h.seq: // the store was told of it as used
		h.back += cost
	default:
		h.held += cost
	}
}

// count keeps the demand of this tick and the last.
func (h *holder) count(at time.Duration, cost int64) {
	if cost > 0 {
		h.used = at
	}
	if gone := at - h.tick; gone >= leaseTick {
		if h.last = h.now; gone >= 2*leaseTick {
			h.last = 0
		}
		h.now, h.tick = 0, at-gone%leaseTick
	}
	h.now += cost
}

// demand is how many units are asked for in a tick.
func (h *holder) demand() int64 { return max(h.now, h.last) }

// surplus is how many units are more than the demand justifies, at a time when nobody need ask.
func (h *holder) surplus(at time.Duration) int64 {
	want := h.demand()
	switch {
	case at-h.used > leaseTick:
		return h.held
	case h.held > 4*want:
		return h.held - 2*want
	}
	return 0
}

// request gives back units and asks for others, as many as are wanted beside those that it keeps. It is to be
// answered, or lost, before the next.
func (h *holder) request(at time.Duration, giving, cost int64) leaseIn {
	if at >= h.until { // what was not used in time
		giving = h.held
	}
	h.held -= giving
	h.back += giving
	h.seq++
	h.asking = true
	in := leaseIn{Seq: h.seq, Epoch: h.epoch, Known: h.known, Back: h.back, Held: h.held, Life: leaseLife.Microseconds()}
	if cost > 0 {
		in.Want = max(h.demand()-h.held, cost)
	}
	return in
}

// answered takes what a request that was sent at some time has brought.
func (h *holder) answered(sent time.Duration, in leaseIn, out leaseOut) {
	h.asking, h.losses = false, 0
	if out.Stale {
		return
	}
	if out.Epoch != h.epoch { // what was held has ended with the epoch
		h.epoch, h.known, h.back, h.held = out.Epoch, 0, 0, 0
	}
	h.known += out.Granted
	h.held += out.Granted
	h.full = h.held
	life := time.Duration(out.Life) * time.Microsecond
	h.until = sent + life - life/100 - time.Millisecond
	if h.until <= sent {
		h.strict = sent + life
	}
	h.left, h.more = out.Left, sent+time.Duration(out.Wait)*time.Microsecond
	switch {
	case in.Want == 0:
	case out.Granted >= in.Want || out.Left > 0: // or it could not have more because of its share
		h.pause, h.noneUntil = 0, 0
	default:
		if out.Granted > 0 {
			h.pause = 0
		}
		h.none(sent, time.Duration(out.Enough)*time.Microsecond)
	}
}

// none stops asking for a while, at most so long: the store has nothing to give.
func (h *holder) none(at, most time.Duration) {
	h.pause = min(max(2*h.pause, firstLeasePause), longLeasePause)
	h.noneUntil = at + min(h.pause, max(most, time.Millisecond))
}

// decided takes what the store said of a call that it decided itself.
func (h *holder) decided(at time.Duration, refused bool, left int64, wait time.Duration) {
	if h.left = left; refused && left == 0 && h.demand() >= hotCalls && !h.asking {
		h.more = at + wait
		h.none(at, wait)
	}
}

// lost is for a request without an answer: the store may have done it. A second one in a row is no accident, and for
// a while each call is left to the store, or to who decides without it.
func (h *holder) lost(at time.Duration) {
	h.asking = false
	if h.losses++; h.losses > 1 {
		h.strict = at + min(firstLeasePause*time.Duration(h.losses), longLeasePause)
	}
}
