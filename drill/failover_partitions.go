package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// isolating cuts a node off: what it says, what it hears, or both.
func isolating(says, hears bool, next int) hitFunc {
	return func(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
		leader, err := l.leader(ctx)
		if err != nil {
			return nil, err
		}
		return l.parted(rng, []int{(leader + next) % len(l.nodes)}, says, hears)
	}
}

// withMinority cuts the leader off together with one more.
func withMinority(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	return l.parted(rng, []int{leader, (leader + 1) % len(l.nodes)}, true, true)
}

// parted cuts some nodes off from the rest. When it is mended, what waited arrives late or is lost.
func (l *nodeFleet) parted(rng *rand.Rand, side []int, says, hears bool) (*nodeHit, error) {
	before := l.net.stuck()
	hit := &nodeHit{at: time.Now()}
	if err := l.cutOff(side, says, hears, true); err != nil {
		return nil, err
	}
	hit.on = time.Now()
	late := rng.IntN(2) == 0
	hangUp := l.nodes[side[0]].poke(rng)
	hit.mend = func(context.Context) error {
		hangUp()
		if !late {
			l.net.sever()
		}
		if err := l.cutOff(side, says, hears, false); err != nil {
			return err
		}
		if l.net.stuck() == before {
			hit.happened = "nothing met the cut"
		}
		return nil
	}
	return hit, nil
}

// cutOff cuts, or mends, what goes from one side to the other.
func (l *nodeFleet) cutOff(side []int, says, hears, cut bool) (err error) {
	mine := map[int]bool{}
	for _, i := range side {
		mine[i] = true
	}
	for _, who := range side {
		for other := range l.nodes {
			if mine[other] {
				continue
			}
			if says {
				err = errors.Join(err, l.net.set(who, other, cut))
			}
			if hears {
				err = errors.Join(err, l.net.set(other, who, cut))
			}
		}
	}
	return err
}

// poke sends a node writes that nobody waits for: an engine that is cut off has effects that are never
// committed, whatever the other clients are about just then.
func (n *nodeProcess) poke(rng *rand.Rand) (hangUp func()) {
	var all []*respConn
	for range 3 {
		key, value := rng.IntN(100), rng.Uint64()
		c, err := dialRESP(n.clients)
		if err != nil {
			continue
		}
		all = append(all, c)
		_, _ = fmt.Fprintf(c, "SET poke:%d %d\r\n", key, value) // it may be gone already
	}
	return func() {
		for _, c := range all {
			_ = c.Close()
		}
	}
}

// wakeIsolated freezes the leader, cuts it off, and lets it go on when there is another one: it believes that it
// leads, has its clients' commands in its sockets, and hears from nobody that it is wrong.
func wakeIsolated(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	d := l.dream(ctx, rng, leader)
	return d.awoken(func() error { return l.cutOff([]int{leader}, true, true, true) }, nil)
}

// lateAnswers freezes the leader while answers are on their way to it, and lets it go on when there is another one.
// It has not been told anything since, and answers to what it asked long ago are all that it hears at first: those of
// one node, which does not lead, then those of the others.
func lateAnswers(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	d := l.dream(ctx, rng, leader) // its readers connect while it can answer
	if err := l.cutOff([]int{leader}, false, true, true); err != nil {
		d.speak()
		return nil, err
	}
	pauseFor(ctx, time.Duration(100+rng.IntN(60))*time.Millisecond) // some heartbeats; it resigns after five without an answer
	return d.awoken(nil, func(next int) error {
		pauseFor(ctx, time.Duration(40+rng.IntN(40))*time.Millisecond) // it asks, who was asked
		for other := range l.nodes {
			if other != leader && other != next {
				if err := l.net.set(other, leader, false); err != nil {
					return err
				}
				pauseFor(ctx, 20*time.Millisecond)
			}
		}
		return l.net.set(next, leader, false)
	})
}

// dream is a leader's time in which others go on.
type dream struct {
	ctx     context.Context
	l       *nodeFleet
	rng     *rand.Rand
	leader  int
	readers *sleepers
	quiet   bool
	speak   func()
}

// dream prepares it. Most are quiet: nothing is on its way in the leader's engine, and nothing comes to it. (What is
// not committed holds back all that is read after it, so a leader that has some tells nobody anything, right or wrong.)
func (l *nodeFleet) dream(ctx context.Context, rng *rand.Rand, leader int) *dream {
	d := &dream{ctx: ctx, l: l, rng: rng, leader: leader, readers: l.readers(leader), quiet: rng.IntN(4) > 0, speak: func() {}}
	if d.quiet {
		d.speak = l.f.storm.hush(ctx, leader)
	}
	return d
}

// awoken freezes the leader, does something meanwhile, has readers ask it what was written elsewhere since, lets it go
// on, and does something then.
func (d *dream) awoken(meanwhile func() error, then func(next int) error) (*nodeHit, error) {
	defer d.speak()
	l := d.l
	before := l.net.stuck()
	frozen, err := l.frozen(d.leader, false)
	if err != nil {
		return nil, err
	}
	if meanwhile != nil {
		if err := meanwhile(); err != nil {
			return nil, err
		}
	}
	next, err := l.leader(d.ctx)
	if err != nil {
		return nil, err
	}
	d.speak()
	pauseFor(d.ctx, time.Duration(200+d.rng.IntN(300))*time.Millisecond) // the new one takes writes
	d.readers.ask()
	if err := frozen.mend(d.ctx); err != nil {
		return nil, err
	}
	if then != nil {
		if err := then(next); err != nil {
			return nil, err
		}
	}
	hit := &nodeHit{at: frozen.at, quiet: d.quiet}
	hit.mend = func(context.Context) error {
		d.readers.hear(l.f.storm)
		l.f.storm.shunned.Store(0)
		if err := l.cutOff([]int{d.leader}, true, true, false); err != nil {
			return err
		}
		if l.net.stuck() == before || next == d.leader {
			hit.happened = "nobody else led meanwhile"
		}
		return nil
	}
	return hit, nil
}

// sleepers are readers whose commands wait in the sockets of a node that is frozen.
type sleepers struct {
	conns []*respConn
	ops   []nodeOp
}

// readers are connected with a node before it is frozen.
func (l *nodeFleet) readers(who int) *sleepers {
	s := &sleepers{}
	for i := range 8 {
		c, err := dialRESP(l.nodes[who].clients)
		if err != nil {
			continue
		}
		if _, err := c.do([]string{"PING"}); err != nil {
			_ = c.Close()
			continue
		}
		s.conns = append(s.conns, c)
		s.ops = append(s.ops, nodeOp{kind: "get", key: fmt.Sprint(l.f.storm.prefix, "reg", i%2), client: stormClients + audience + i})
	}
	return s
}

func (s *sleepers) ask() {
	for i, c := range s.conns {
		s.ops[i].call = time.Now()
		_, _ = fmt.Fprintf(c, "GET %s\r\n", s.ops[i].key) // without an answer it says nothing
	}
}

// hear writes down what they were told.
func (s *sleepers) hear(storm *nodeStorm) {
	for i, c := range s.conns {
		op := s.ops[i]
		if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			continue
		}
		answer, err := c.answer()
		op.answer, op.ret = answer, time.Now()
		if err == nil {
			storm.note(op)
		}
		_ = c.Close()
	}
}

// flap cuts the leader off and lets it back, again and again.
func flap(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	before := l.net.stuck()
	hit := &nodeHit{at: time.Now(), mend: func(context.Context) error { return nil }}
	for range 4 {
		off, on := time.Duration(100+rng.IntN(500))*time.Millisecond, time.Duration(50+rng.IntN(200))*time.Millisecond
		if err := l.cutOff([]int{leader}, true, true, true); err != nil {
			return nil, err
		}
		pauseFor(ctx, off)
		if err := l.cutOff([]int{leader}, true, true, false); err != nil {
			return nil, err
		}
		pauseFor(ctx, on)
	}
	if l.net.stuck() == before {
		hit.happened = "nothing met the cuts"
	}
	return hit, ctx.Err()
}
