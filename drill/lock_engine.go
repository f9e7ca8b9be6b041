package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// lockEngine is a store that locks are in.
type lockEngine interface {
	// flags are how the who'th holder reaches it.
	flags(who int) []string
	// fault is what a name means here for locks, or why that cannot happen.
	fault(name string) (f lockFault, why string)
	// harmed is what a name means here for anything that is in the store, or why that cannot happen.
	harmed(name string) (f storeFault, why string)
	// gates are between the store and those who ask it; none: they ask it without a proxy.
	gates() []*door
	close()
}

// storeFault is something that happens to a store, for so long at least, whoever asks it.
type storeFault struct {
	name           string
	hit            func(ctx context.Context, held time.Duration, rng *rand.Rand) (happened string, err error)
	forgets, jumps bool
	shifts         time.Duration // at most so far its clock goes ahead, and then it stands still for as long
}

func (f storeFault) ofLock() lockFault {
	return lockFault{name: f.name, forgets: f.forgets, jumps: f.jumps, hit: func(ctx context.Context, r *lockRound, rng *rand.Rand) (string, error) {
		return f.hit(ctx, r.held, rng)
	}}
}

// plainly is a fault of e as locks have it.
func plainly(e lockEngine, name string) (lockFault, string) {
	f, why := e.harmed(name)
	return f.ofLock(), why
}

// lockFault is something that happens to a store. It returns when the store answers again.
type lockFault struct {
	name string
	hit  func(ctx context.Context, r *lockRound, rng *rand.Rand) (happened string, err error)
	// forgets: acknowledged leases may be gone. jumps: the engine's clock does.
	forgets, jumps bool
}

// The faults of stores, by name.
const (
	noFault      = "none"
	killEngine   = "kill-engine"
	pauseEngine  = "pause-engine"
	cutHolders   = "partition"
	clockJump    = "clock-jump"
	failOver     = "failover"
	isolateNodes = "isolate-leader"
)

func lockFaultNames() []string {
	return []string{noFault, killEngine, pauseEngine, cutHolders, clockJump, failOver, isolateNodes}
}

var nothingHappens = storeFault{name: noFault, hit: func(ctx context.Context, held time.Duration, _ *rand.Rand) (string, error) {
	pauseFor(ctx, held)
	return "", ctx.Err()
}}

// maxJump is how wrong a clock is put.
const maxJump = 30 * time.Second

// jumpOf is how wrong: mostly by much.
func jumpOf(rng *rand.Rand) time.Duration {
	by := maxJump - time.Duration(rng.Int64N(int64(maxJump/4)))
	if rng.IntN(2) == 0 {
		return -by
	}
	return by
}

// standing stops a process for as long as the round says.
func standing(ctx context.Context, pid int, d time.Duration) (happened string, err error) {
	if err := stopPid(pid); err != nil {
		return "", err
	}
	pauseFor(ctx, d)
	if state, _ := processState(pid); state != "T" {
		happened = "it did not stand still"
	}
	return happened, errors.Join(continuePid(pid), ctx.Err())
}

// parting cuts off those who come through one of two doors, as soon as one of them holds a name and
// lingers; it ends when somebody else has had the name.
func parting(doors []*door) lockFault {
	return lockFault{name: cutHolders, hit: func(ctx context.Context, r *lockRound, rng *rand.Rand) (string, error) {
		asks, answers := [3]bool{true, true, false}, [3]bool{true, false, true}
		way := rng.IntN(3)
		hangUp := rng.IntN(2) == 0
		fresh := func(s holding) bool { return s.state == holds && s.linger && time.Since(s.since) < leaseTTL/2 }
		who, s := r.find(ctx, fresh)
		if who == nil {
			return "nobody lingered with a name", ctx.Err()
		}
		gate := doors[who.index%len(doors)]
		gate.cut(asks[way], answers[way])
		began := time.Now()
		defer func() { gate.mend(hangUp) }()
		taken := r.until(ctx, func() bool { return r.others(who.index, s.name, s.token) > 0 })
		pauseFor(ctx, r.held-time.Since(began))
		if !taken {
			return fmt.Sprintf("nobody else had %s while its holder was cut off", s.name), ctx.Err()
		}
		return "", ctx.Err()
	}}
}

// window is when something was the matter with the store.
type window struct {
	fault          string
	from, to       time.Time
	forgets, jumps bool
	shifts         time.Duration
}

func (w window) overlaps(from, to time.Time) bool { return !w.from.After(to) && !w.to.Before(from) }

// anyOver says whether one of some windows lies over a time.
func anyOver(all []window, from, to time.Time, which func(window) bool) bool {
	return slices.ContainsFunc(all, func(w window) bool { return which(w) && w.overlaps(from, to) })
}
