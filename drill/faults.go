package drill

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The faults that Sale knows. Those of a store or a database are for engines that the drill has
// started itself.
const (
	FaultKillServer = "kill-server" // each server once: SIGKILL, and started again at once
	FaultFlushStore = "flush-store" // FLUSHALL
	FaultKillStore  = "kill-store"  // SIGKILL, and started again at once: empty, with its file (class B), or the one of three nodes that leads, unheard for its last 100 ms
	FaultPauseStore = "pause-store" // SIGSTOP for 3 s: connections stay, answers do not come; of nodes, the one that leads
	FaultStopDB     = "stop-db"     // SIGQUIT to PostgreSQL, an immediate shutdown; started again after 3 s
	FaultCrowdDB    = "crowd-db"    // every connection to PostgreSQL is ended, and all that can be had are taken, for 3 s
	FaultFullDisk   = "full-disk"   // no room below file: and SQLite for 3 s; Linux only
	FaultSlowDisk   = "slow-disk"   // each sync of file: and SQLite takes 2.5 s, for 6 s; Linux only
)

// Faults are all of them, in the order of the documentation.
var Faults = []string{FaultKillServer, FaultFlushStore, FaultKillStore, FaultPauseStore, FaultStopDB, FaultCrowdDB, FaultFullDisk, FaultSlowDisk}

// down is how long an engine stays away.
const down = 3 * time.Second

// slowSync is longer than the store waits for a disk.
const slowSync = 2500 * time.Millisecond

// fault is one that will happen.
type fault struct {
	kind   string
	server int // of kill-server
}

func (f fault) String() string {
	if f.kind == FaultKillServer {
		return fmt.Sprintf("%s %d", f.kind, f.server)
	}
	return f.kind
}

// addFaults reads what was asked for and says what it lacks.
func (p *plan) addFaults() error {
	for _, name := range p.Faults {
		switch name {
		case FaultKillServer:
			for i := range p.Servers {
				p.faults = append(p.faults, fault{kind: name, server: i})
			}
			continue
		case FaultFlushStore, FaultKillStore, FaultPauseStore:
			if p.own.store == "" {
				return fmt.Errorf("drill: the fault %s needs --store redis-server, valkey-server or nodes: only engines that the drill starts itself are harmed", name)
			}
		case FaultStopDB, FaultCrowdDB:
			if !p.own.db {
				return fmt.Errorf("drill: the fault %s needs --db postgres: only engines that the drill starts itself are harmed", name)
			}
		case FaultFullDisk:
			if p.Store != "" || p.DB != "" {
				return fmt.Errorf("drill: the fault %s is for the bare drill, file: and SQLite in a place of their own: no other disk is filled", name)
			}
		case FaultSlowDisk:
			if p.own.shared(p.Store, p.DB) {
				return fmt.Errorf("drill: the fault %s is for file: and SQLite, which sync to a disk themselves", name)
			}
		case "none", "":
			continue
		default:
			return fmt.Errorf("drill: unknown fault %q; there are %s and none", name, strings.Join(Faults, ", "))
		}
		p.faults = append(p.faults, fault{kind: name})
	}
	// In which order they come is for the seed to say.
	rand.New(rand.NewPCG(p.Seed, 5)).Shuffle(len(p.faults), func(i, j int) { p.faults[i], p.faults[j] = p.faults[j], p.faults[i] })
	return nil
}

// ofEngines is how many faults concern a store or a database.
func (p *plan) ofEngines() (n int) {
	for _, f := range p.faults {
		if f.kind != FaultKillServer {
			n++
		}
	}
	return n
}

func (p *plan) fillsDisk() bool { return slices.Contains(p.Faults, FaultFullDisk) }

// faultMoments deals when faults happen: after how many holds and payments were answered. They
// lie between a fifth of the stock and one and a half times the stock, apart from each other.
func faultMoments(seed uint64, faults, stock int) []int {
	rng := rand.New(rand.NewPCG(seed, 4))
	first, last := stock/5, stock*3/2
	moments := make([]int, faults)
	for i := range moments {
		from := first + (last-first)*i/faults
		to := first + (last-first)*(i+1)/faults
		moments[i] = from + rng.IntN(max(1, (to-from)*2/3))
	}
	return moments
}

// standLatest is how long the storm may stand still before a fault comes anyway.
const standLatest = 3 * time.Second

// harm lets the faults happen at the moments that were dealt, one after the other. A fault that
// has begun is seen to its end, also when the storm is over.
func (r *run) harm(ctx, storm context.Context) error {
	for i, moment := range faultMoments(r.Seed, len(r.faults), min(r.Stock, r.Buyers)) {
		r.untilGiven(storm, moment)
		inFlight := r.client.inFlight.Load()
		for inFlight == 0 && wait(storm, time.Millisecond) {
			inFlight = r.client.inFlight.Load()
		}
		if storm.Err() != nil {
			return nil // what did not happen, the judgement finds
		}
		f := r.faults[i]
		r.progress.say("%s after %d answers, %d requests on their way", f, r.record.given(), inFlight)
		o := outage{Fault: f.kind, Server: f.server, InFlight: int(inFlight), Down: time.Now().UnixMicro()}
		var err error
		o.Hit, err = r.inflict(ctx, f)
		o.Up = time.Now().UnixMicro()
		if err == nil {
			o.Success = r.firstSuccesses(ctx)
			r.progress.say("%s is over after %.2f s; all servers give answers %.2f s later", f, seconds(o.Up-o.Down), o.recovery())
		}
		r.outages = append(r.outages, o)
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
	}
	return nil
}

// untilGiven waits until so many holds and payments were answered, or nothing moves any more.
func (r *run) untilGiven(ctx context.Context, moment int) {
	last, since := r.record.given(), time.Now()
	for last < moment && time.Since(since) < standLatest && wait(ctx, time.Millisecond) {
		if now := r.record.given(); now != last {
			last, since = now, time.Now()
		}
	}
}

// inflict does the harm and returns when what was harmed answers again. Hit says whether there
// was something to harm.
func (r *run) inflict(ctx context.Context, f fault) (hit bool, err error) {
	switch f.kind {
	case FaultKillServer:
		return r.fleet.kill(f.server)
	case FaultFlushStore:
		return flush(ctx, r.store.dial, permitsKey(r.saleID), r.marks)
	case FaultKillStore:
		return r.store.killed(ctx)
	case FaultPauseStore:
		return r.store.standStill(ctx)
	case FaultFullDisk:
		return fillDisk(ctx, r.place.disk())
	case FaultSlowDisk:
		return r.disk.slow(ctx, slowSync, 2*down), nil
	case FaultCrowdDB:
		return crowd(ctx, r.db)
	default: // FaultStopDB
		hit = r.db.quit(syscall.SIGQUIT)
		wait(ctx, down)
		return hit, r.db.start(ctx)
	}
}

// flush empties a store; hit says whether key was there. After another fault that comes back with
// the next request that needs it.
func flush(ctx context.Context, dial func() (*respConn, error), key string, m *marks) (hit bool, err error) {
	var there any
	for until := time.Now().Add(standLatest); there != int64(1) && time.Now().Before(until) && wait(ctx, time.Millisecond); {
		if there, err = tellOnce(dial, "EXISTS", key); err != nil {
			return false, err
		}
	}
	err = m.during(func() error {
		answer, err := tellOnce(dial, "FLUSHALL")
		if err == nil && answer != "OK" {
			err = fmt.Errorf("FLUSHALL: %v", answer)
		}
		return err
	})
	return there == int64(1), err
}

// standStill stops an engine for a while; hit says whether it was silent meanwhile.
func (en *engine) standStill(ctx context.Context) (hit bool, err error) {
	if err := en.child.pause(); err != nil {
		return false, err
	}
	defer func() { _ = en.child.resume() }() // it must not stay so, whatever happens here
	over := time.Now().Add(down)
	silent, cancel := context.WithTimeout(ctx, down/10)
	hit = en.ask(silent) != nil
	cancel()
	wait(ctx, time.Until(over))
	if err := en.child.resume(); err != nil {
		return hit, err
	}
	return hit, en.answers(ctx)
}
