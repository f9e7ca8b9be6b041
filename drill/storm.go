package drill

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// storm lets all buyers loose and harms what they rely on meanwhile. It is over when every unit is sold
// and every payment is done, when nobody wants anything any more, when units are overdue and nothing else
// happens, or when its time is over.
func (r *run) storm(ctx context.Context) error {
	all, cancel := context.WithCancel(ctx)
	defer cancel()
	storm, over := context.WithTimeout(all, r.plan.storm)
	defer over()
	began := time.Now()
	var shoppers, harmer sync.WaitGroup
	shopping := make(chan struct{})
	r.letLoose(storm, &shoppers)
	go func() { shoppers.Wait(); close(shopping) }()
	var harming atomic.Bool
	harming.Store(true)
	harmer.Go(func() {
		defer harming.Store(false)
		if err := r.harm(all, storm); err != nil {
			r.unclean = append(r.unclean, err.Error())
			over() // without a server or an engine there is nothing to see
		}
	})
	r.watch(storm, shopping, &harming)
	over()
	harmer.Wait()
	<-shopping
	r.stormed, r.total = time.Since(began), r.record.total()
	return ctx.Err()
}

// letLoose starts the buyers: first those who ask beyond their limit while there are units.
func (r *run) letLoose(ctx context.Context, wg *sync.WaitGroup) {
	r.progress.say("storm: units are held for %s, at most %s", r.hold, r.plan.storm)
	for i := range r.Buyers {
		b := &buyer{run: r, name: fmt.Sprintf("buyer-%d", i), wants: r.wants.deal()}
		r.buyers = append(r.buyers, b)
	}
	r.scouted.Add(r.scouts)
	for _, b := range r.buyers[:r.scouts] {
		b.wants = r.perBuyer
		wg.Go(func() { b.scout(ctx) })
	}
	wg.Go(func() {
		r.scouted.Wait()
		r.record.rush(min(r.Stock, r.Buyers))
		for _, b := range r.buyers[r.scouts:] {
			wg.Go(func() { b.shop(ctx) })
		}
	})
}

func (r *run) mayVanish() bool { return r.vanished.Add(1) <= int64(r.plan.vanish) }

// watch looks at the sale until the storm is over, and tells of it each second.
func (r *run) watch(ctx context.Context, shopping <-chan struct{}, harming *atomic.Bool) {
	next := time.Now().Add(time.Second)
	for wait(ctx, 100*time.Millisecond) {
		busy := r.busy.Load() // before the sale is read: who comes later took a unit then
		s, ok := get[saleTold](ctx, r.client, "/v1/sales/"+r.saleID)
		if ok && time.Now().After(next) {
			next = time.Now().Add(time.Second)
			r.progress.say("sold %d, held %d of %d; %d answers, %d payments open", s.Sold, s.Held, s.Stock, r.record.given(), len(r.record.pending()))
		}
		calm := ok && !harming.Load()
		idle := calm && busy == 0 && r.busy.Load() == 0
		switch overdue := r.overdue(s, idle); {
		case !calm:
		case idle && s.Sold >= s.Stock && s.Held == 0, ended(shopping):
			return
		case overdue:
			r.progress.say("%d units are held that had to be back, and nothing else happens", s.Held)
			return
		}
	}
}

// stillness is a sale in which nothing happens.
type stillness struct {
	sale  saleTold
	given int // holds and payments
	since time.Time
}

// overdue says whether units are held that had to be back, and nothing else happens: for longer than any hold
// and what the judgement allows behind it, nobody was given anything, paid, or was harmed. It is looked at again and again.
func (r *run) overdue(s saleTold, idle bool) bool {
	now := stillness{s, r.record.given(), r.still.since}
	if now != r.still || !idle || s.Held == 0 || len(r.record.pending()) > 0 {
		now.since = time.Now()
		r.still = now
		return false
	}
	return time.Since(now.since) > r.hold+backAfter+time.Second
}

func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// drainWithin is how long, beyond a hold's time, units may still be held after the storm.
const drainWithin = 10 * time.Second

// drain waits until no unit is held and no payment open, or nothing comes back that should. What is still
// open then, or when its time is over, the judgement finds.
func (r *run) drain(ctx context.Context) {
	r.progress.say("storm over after %.1f s; waiting for what is still held", r.stormed.Seconds())
	ctx, cancel := context.WithTimeout(ctx, 2*r.hold+drainWithin)
	defer cancel()
	for {
		s, ok := get[saleTold](ctx, r.client, "/v1/sales/"+r.saleID)
		open := r.record.pending()
		for _, id := range open {
			if p, ok := get[paymentTold](ctx, r.client, "/v1/payments/"+id); ok && final(p.State) {
				r.record.ended(p)
			}
		}
		if ok && (s.Held == 0 && len(open) == 0 || r.overdue(s, true)) || !wait(ctx, 100*time.Millisecond) {
			return
		}
	}
}

// repeat sends every request that succeeded once more: also the clients that vanished come back
// and ask what became of theirs.
func (r *run) repeat(ctx context.Context) {
	keys := r.record.successes()
	r.progress.say("repeating %d requests that had succeeded", len(keys))
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second+time.Duration(len(keys))*20*time.Millisecond)
	defer cancel()
	work := make(chan *keyed)
	var wg sync.WaitGroup
	for range min(32, r.parallel) {
		wg.Go(func() {
			for k := range work {
				if a := r.client.decided(ctx, k); a.err == nil {
					r.record.count(didRepeats)
				}
			}
		})
	}
	for _, k := range keys {
		work <- k
	}
	close(work)
	wg.Wait()
}
