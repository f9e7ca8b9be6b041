package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"time"
)

// nodeFault is something that happens to nodes.
type nodeFault struct {
	name   string
	leader bool // the leader is hit
	hit    func(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error)
}

// nodeHit is a fault that is on.
type nodeHit struct {
	mend     func(ctx context.Context) error
	happened string // why it did not happen, looked at from outside; empty when it did
}

var nodeFaults = []nodeFault{
	{"kill-leader", true, func(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
		return l.killed(ctx, func(leader int) []int { return []int{leader} })
	}},
	{"kill-follower", false, func(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
		return l.killed(ctx, func(leader int) []int { return []int{(leader + 1) % len(l.nodes)} })
	}},
	{"kill-all", true, func(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
		return l.killed(ctx, func(int) (all []int) {
			for i := range l.nodes {
				all = append(all, i)
			}
			return all
		})
	}},
	{"kill-two-leaders", true, killTwo},
	{"kill-leaders-engine", true, killEngine},
	{"pause-leader", true, func(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
		return l.frozen(ctx, false)
	}},
	{"pause-leaders-engine", true, func(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
		return l.frozen(ctx, true)
	}},
	{"isolate-leader", true, func(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
		return l.isolated(ctx, rng, true, true, 0)
	}},
	{"leader-hears-nobody", true, func(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
		return l.isolated(ctx, rng, false, true, 0)
	}},
	{"nobody-hears-leader", true, func(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
		return l.isolated(ctx, rng, true, false, 0)
	}},
	{"isolate-follower", false, func(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
		return l.isolated(ctx, rng, true, true, 1)
	}},
	{"wake-isolated", false, wakeIsolated},
	{"flap", true, flap},
	{"hand-over", true, handOver},
}

func faultNames() (names []string) {
	for _, f := range nodeFaults {
		names = append(names, f.name)
	}
	return names
}

// killed kills nodes with their engines; mending starts them again.
func (l *nodeFleet) killed(ctx context.Context, which func(leader int) []int) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	hit := &nodeHit{}
	victims := which(leader)
	for _, i := range victims {
		if !l.nodes[i].child.kill() {
			hit.happened = l.nodes[i].name + " had ended before"
		}
	}
	hit.mend = func(context.Context) error {
		for _, i := range victims {
			if err := l.start(i, false); err != nil {
				return err
			}
		}
		return nil
	}
	return hit, nil
}

// killTwo kills the leader, and the next one as soon as there is one; the first is back by then.
func killTwo(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
	first, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	hit := &nodeHit{}
	if !l.nodes[first].child.kill() {
		hit.happened = "the leader had ended before"
	}
	second, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.start(first, false); err != nil {
		return nil, err
	}
	if !l.nodes[second].child.kill() {
		hit.happened = "the next leader had ended before"
	}
	hit.mend = func(context.Context) error { return l.start(second, false) }
	return hit, nil
}

func killEngine(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	pid, err := l.nodes[leader].engine()
	if err != nil {
		return nil, err
	}
	if err := killPid(pid); err != nil {
		return nil, err
	}
	return &nodeHit{mend: func(context.Context) error { return nil }}, nil
}

// frozen stops the leader's node, or its engine, for longer than anybody waits for it.
func (l *nodeFleet) frozen(ctx context.Context, engine bool) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	n := l.nodes[leader]
	pid := n.child.cmd.Process.Pid
	if engine {
		if pid, err = n.engine(); err != nil {
			return nil, err
		}
	}
	if err := stopPid(pid); err != nil {
		return nil, err
	}
	n.paused = &pid
	return &nodeHit{mend: func(context.Context) error { n.resume(); return nil }}, nil
}

// resume lets go on what was stopped, if it is still there.
func (n *nodeProcess) resume() {
	if n.paused != nil {
		_ = continuePid(*n.paused) // the node may have ended an engine that stood still
		n.paused = nil
	}
}

// isolated cuts a node off: what it says, what it hears, or both.
func (l *nodeFleet) isolated(ctx context.Context, rng *rand.Rand, says, hears bool, next int) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	who := (leader + next) % len(l.nodes)
	before := l.links.stuck.Load()
	l.cutOff(who, says, hears, true)
	late := rng.IntN(2) == 0
	hangUp := l.nodes[who].poke(rng)
	hit := &nodeHit{}
	hit.mend = func(context.Context) error {
		hangUp()
		if !late {
			l.links.sever()
		}
		l.cutOff(who, says, hears, false)
		if l.links.stuck.Load() == before {
			hit.happened = "nothing met the cut"
		}
		return nil
	}
	return hit, nil
}

// poke sends a node writes that nobody waits for: an engine that is cut off has effects that are never
// committed, whatever the other clients are about just then.
func (n *nodeProcess) poke(rng *rand.Rand) (hangUp func()) {
	var all []*respConn
	for range 3 {
		c, err := dialRESP(n.clients)
		if err != nil {
			break
		}
		all = append(all, c)
		_, _ = fmt.Fprintf(c, "SET poke:%d %d\r\n", rng.IntN(100), rng.Uint64()) // it may be gone already
	}
	return func() {
		for _, c := range all {
			_ = c.Close()
		}
	}
}

func (l *nodeFleet) cutOff(who int, says, hears, cut bool) {
	for other := range l.nodes {
		if other == who {
			continue
		}
		if says {
			l.links.set(who, other, cut)
		}
		if hears {
			l.links.set(other, who, cut)
		}
	}
}

// wakeIsolated freezes the leader, cuts it off, and lets it go on when there is another one: it believes that it
// leads, has its clients' commands in its sockets, and hears from nobody that it is wrong.
func wakeIsolated(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
	before := l.links.stuck.Load()
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	frozen, err := l.frozen(ctx, false)
	if err != nil {
		return nil, err
	}
	l.cutOff(leader, true, true, true)
	next, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	pauseFor(ctx, time.Duration(200+rng.IntN(300))*time.Millisecond) // the new one takes writes
	if err := frozen.mend(ctx); err != nil {
		return nil, err
	}
	hit := &nodeHit{}
	hit.mend = func(context.Context) error {
		l.cutOff(leader, true, true, false)
		if l.links.stuck.Load() == before || next == leader {
			hit.happened = "nobody else led meanwhile"
		}
		return nil
	}
	return hit, nil
}

// flap cuts the leader off and lets it back, again and again.
func flap(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	before := l.links.stuck.Load()
	for range 4 {
		l.cutOff(leader, true, true, true)
		if !pauseFor(ctx, time.Duration(100+rng.IntN(500))*time.Millisecond) {
			break
		}
		l.cutOff(leader, true, true, false)
		if !pauseFor(ctx, time.Duration(50+rng.IntN(200))*time.Millisecond) {
			break
		}
	}
	hit := &nodeHit{mend: func(context.Context) error { return nil }}
	if l.links.stuck.Load() == before {
		hit.happened = "nothing met the cuts"
	}
	return hit, ctx.Err()
}

// handOver moves leadership on purpose.
func handOver(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, l.f.Binary, "node", "transfer", "--node", l.nodes[leader].raft, "--secret-file", l.secret).CombinedOutput()
	if err != nil {
		return nil, errors.New(string(out))
	}
	hit := &nodeHit{mend: func(context.Context) error { return nil }}
	if now, err := l.leader(ctx); err == nil && now == leader {
		hit.happened = "it leads still"
	}
	return hit, nil
}
