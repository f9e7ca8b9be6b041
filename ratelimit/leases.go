package ratelimit

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"
)

// leases are what a process holds, one holder a key, for all its callers.
type leases struct {
	mu     sync.RWMutex
	all    map[leaseName]*leased
	made   int64
	began  time.Time
	closed bool
}

type leaseName struct{ lot, key string }

// leased is a holder with its key.
type leased struct {
	mu sync.Mutex
	holder
	ended  bool // it is no longer among the leases
	limit  *limit
	whole  string        // key of the rule's state
	record string        // key of what is held
	done   chan struct{} // closed when the request on its way is answered or lost
}

const (
	// mostLeases is of how many keys a process counts the demand; of the others each call goes to the store.
	mostLeases = 4096
	leaseSweep = 50 * time.Millisecond
	// idleLease is when a key that nobody asks for is forgotten.
	idleLease = 2 * time.Second
	// mostEnding is of how many keys what is held is given back at once.
	mostEnding = 16
	// evictLooks is how many keys are looked at to find one that can be forgotten.
	evictLooks = 8
)

func (l *Limiter) since() time.Duration { return time.Since(l.leases.began) }

// leaseOf finds or makes the holder of a key; nil when there are too many.
func (l *Limiter) leaseOf(lim *limit, key string) *leased {
	s := &l.leases
	s.mu.RLock()
	had := s.all[leaseName{lim.lot, key}]
	s.mu.RUnlock()
	if had != nil {
		return had
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if had := s.all[leaseName{lim.lot, key}]; had != nil || s.closed || len(s.all) >= mostLeases && !s.evict(l.since()) {
		return had
	}
	if s.all == nil {
		s.all = map[leaseName]*leased{}
		l.wg.Go(l.sweepLeases)
	}
	s.made++
	tag, whole := lim.place(key)
	name := l.process + "." + strconv.FormatInt(s.made, 10)
	made := &leased{limit: lim, whole: whole, record: tag + "lease:" + name + ":" + strings.TrimPrefix(whole, tag)}
	s.all[leaseName{lim.lot, key}] = made
	return made
}

// evict forgets a key of which nothing was ever leased; it needs mu.
func (s *leases) evict(at time.Duration) bool {
	looks := evictLooks
	for name, a := range s.all {
		if a.mu.TryLock() { // in ask the two locks come the other way round
			cold := a.seq == 0 && at-a.used > leaseTick
			a.ended = a.ended || cold
			a.mu.Unlock()
			if cold {
				delete(s.all, name)
				return true
			}
		}
		if looks--; looks == 0 {
			break
		}
	}
	return false
}

// said is what a lease says of its rule.
type said struct {
	verdict
	left        int64
	epoch, seq  int64 // of what was taken
	wait, reset time.Duration
}

// local decides a call by what the process holds of a key, if it can; a patient one waits for the answer to one request.
func (l *Limiter) local(ctx context.Context, lim *limit, key string, cost int64, patient bool) (a *leased, v said) {
	if share := l.shareOf(lim); share < fewLeased || share < cost {
		return nil, said{verdict: leaseStrict}
	}
	for tries := 2; tries > 0; tries-- {
		if a = l.leaseOf(lim, key); a == nil {
			break
		}
		var wait <-chan struct{}
		if v, wait = a.try(l, lim, cost); v.verdict != leaseAsk {
			return a, v
		}
		if !patient {
			break
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return a, said{verdict: leaseStrict}
		}
	}
	return a, said{verdict: leaseStrict}
}

// shareOf is how much of a rule this process may hold.
func (l *Limiter) shareOf(lim *limit) int64 {
	if lim.kind == kindToken {
		return lim.most / (lim.parts * l.processes())
	}
	return lim.most / lim.parts
}

// nothing is a channel for who need not wait.
var nothing = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// try is one attempt; of leaseAsk it says when to come again.
func (a *leased) try(l *Limiter, lim *limit, cost int64) (said, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return said{verdict: leaseAsk}, nothing
	}
	a.limit = lim
	at := l.since()
	v, more := a.take(at, cost)
	epoch, seq := a.epoch, a.seq // a request that is sent now is told that these units are used
	if (more || v == leaseAsk) && !a.asking && !l.ask(a, at, 0, cost) {
		v = leaseStrict
	}
	out := said{verdict: v, left: a.left + a.held, epoch: epoch, seq: seq, reset: max(a.more-at, 0)}
	switch v {
	case leaseNone:
		out.left, out.wait = a.held, max(out.reset, a.noneUntil-at, time.Millisecond)
	case leaseAsk:
		return out, a.done
	}
	return out, nothing
}

// ask sends a request in the background; it needs a.mu. It is false when the Limiter is closed.
func (l *Limiter) ask(a *leased, at time.Duration, giving, cost int64) bool {
	l.leases.mu.RLock()
	closed := l.leases.closed
	if !closed {
		l.wg.Add(1)
	}
	l.leases.mu.RUnlock()
	if closed {
		return false
	}
	in := l.requestOf(a, at, giving, cost)
	a.done = make(chan struct{})
	go func() {
		defer l.wg.Done()
		out, err := l.sendLease(context.Background(), in)
		a.mu.Lock()
		defer a.mu.Unlock()
		if err != nil {
			a.lost(l.since())
		} else {
			a.answered(at, in, out)
		}
		close(a.done)
	}()
	return true
}

// requestOf fills in what a holder does not know.
func (l *Limiter) requestOf(a *leased, at time.Duration, giving, cost int64) leaseIn {
	in := a.request(at, giving, cost)
	in.Key, in.Record, in.Kind, in.Most, in.Span = a.whole, a.record, a.limit.kind, a.limit.most, a.limit.span
	in.Parts = a.limit.parts
	if a.limit.kind == kindToken { // what all hold is their excess
		in.Parts *= l.processes()
	}
	return in
}

// processes is how many are thought to live.
func (l *Limiter) processes() int64 {
	if n := l.live.Load(); n > 0 {
		return n
	}
	return int64(l.opts.Processes)
}

func (l *Limiter) sendLease(ctx context.Context, in leaseIn) (out leaseOut, err error) {
	s := l.store.Load()
	if s == nil {
		return out, errOpen
	}
	err = l.circuit.call(ctx, l.opts.Timeout, func(ctx context.Context) error {
		out, err = leaseDecision.Do(ctx, s, in)
		return err
	})
	return out, err
}

// sweepLeases gives back what is not wanted and forgets what nobody asks for.
func (l *Limiter) sweepLeases() {
	ticker := time.NewTicker(leaseSweep)
	defer ticker.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticker.C:
			l.sweepOnce()
		}
	}
}

func (l *Limiter) sweepOnce() {
	l.leases.mu.RLock()
	names := make([]leaseName, 0, len(l.leases.all))
	all := make([]*leased, 0, len(l.leases.all))
	for name, a := range l.leases.all {
		names, all = append(names, name), append(all, a)
	}
	l.leases.mu.RUnlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{}, mostEnding)
	for i, a := range all {
		if l.ctx.Err() != nil {
			return // closeLeases gives back the rest
		}
		a.mu.Lock()
		at := l.since()
		a.count(at, 0)
		switch n := a.surplus(at); {
		case a.asking || at < a.strict:
		case at-a.used > idleLease:
			a.ended = true
		case n > 0:
			l.ask(a, at, n, 0)
		}
		ended := a.ended
		a.mu.Unlock()
		if ended {
			l.leases.mu.Lock()
			if l.leases.all[names[i]] == a {
				delete(l.leases.all, names[i])
			}
			l.leases.mu.Unlock()
			free <- struct{}{}
			wg.Go(func() {
				l.endLease(context.Background(), a)
				<-free
			})
		}
	}
}

// endLease gives back all that is held of a key, and takes away the record. If that is lost, the record ends with the
// window, and what was held with it.
func (l *Limiter) endLease(ctx context.Context, a *leased) {
	a.mu.Lock()
	in := l.requestOf(a, l.since(), a.held, 0)
	a.mu.Unlock()
	if in.Seq == 1 {
		return // nothing was ever asked for
	}
	in.Life = 0
	if _, err := l.sendLease(ctx, in); err != nil {
		l.opts.Logger.Debug("limits: a lease could not be given back", "error", err)
	}
}

// closeLeases gives back what the process holds.
func (l *Limiter) closeLeases(ctx context.Context) {
	var wg sync.WaitGroup
	free := make(chan struct{}, mostEnding)
	for _, a := range l.leases.all { // nobody else is left
		a.mu.Lock()
		a.ended = true
		a.mu.Unlock()
		free <- struct{}{}
		wg.Go(func() {
			l.endLease(ctx, a)
			<-free
		})
	}
	wg.Wait()
}

// allowLeased decides a call of one rule by what is held of it. It is false when the store has to decide;
// then the holder is to learn what it says.
func (l *Limiter) allowLeased(ctx context.Context, r Request) (Decision, *leased, bool) {
	lim, err := l.rules.Load().find(r)
	if err != nil || lim.parts == 0 || r.Cost > lim.most {
		return Decision{}, nil, false
	}
	a, s := l.local(ctx, lim, r.Key, r.Cost, true)
	if s.verdict == leaseStrict {
		return Decision{}, a, false
	}
	r.Rule, r.Domain = lim.Name, lim.Domain
	d := Decision{Allowed: true, Atomic: true, Source: FromLease, Statuses: make([]Status, 1)}
	d.Statuses[0] = Status{Request: r, Quota: lim.quota, Algorithm: lim.Algorithm, Shadow: lim.Shadow}
	d.told(0, s)
	return d, a, true
}

// told notes what a lease said of a request.
func (d *Decision) told(i int, s said) {
	st := &d.Statuses[i]
	st.Remaining, st.Reset, st.Refused, st.Wait = s.left, s.reset, s.verdict == leaseNone, s.wait
	if st.Refused && !st.Shadow {
		d.Allowed, d.Wait = false, max(d.Wait, s.wait)
	}
}

// used is what a call has taken of leases.
type used struct {
	*leased
	cost, epoch, seq int64
}

func giveUsed(all []used) {
	for _, u := range all {
		u.mu.Lock()
		u.untake(u.cost, u.epoch, u.seq)
		u.mu.Unlock()
	}
}

func anyLeased(steps []step) bool {
	for _, s := range steps {
		for _, w := range s.all {
			if w.parts > 0 {
				return true
			}
		}
	}
	return false
}

// takeLeased decides what it can of a call of several rules by leases, and leaves the rest in the steps. What it has
// taken is to be given back if the rest refuses.
func (l *Limiter) takeLeased(ctx context.Context, d *Decision, steps []step) (rest []step, took []used) {
	for _, s := range steps {
		all := s.all[:0:0]
		for _, w := range s.all {
			if w.parts == 0 || !d.Allowed {
				all = append(all, w)
				continue
			}
			a, v := l.local(ctx, w.limit, d.Statuses[w.requests[0]].Request.Key, w.cost, false)
			if v.verdict == leaseStrict {
				w.holds = a
				all = append(all, w)
				continue
			}
			if v.verdict == leaseTook {
				took = append(took, used{a, w.cost, v.epoch, v.seq})
			}
			for _, i := range w.requests {
				d.told(i, v)
			}
		}
		if len(all) > 0 {
			rest = append(rest, step{s.tag, all})
		}
	}
	return rest, took
}

// learn tells the holders of keys that the store decided what it said.
func (l *Limiter) learn(d *Decision, s step) {
	for _, w := range s.all {
		if a := w.holds; a != nil {
			st := &d.Statuses[w.requests[0]]
			a.mu.Lock()
			a.decided(l.since(), st.Refused, st.Remaining, st.Wait)
			a.mu.Unlock()
		}
	}
}
