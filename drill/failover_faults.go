package drill

import (
	"context"
	"math/rand/v2"
	"time"
)

// nodeFault is something that happens to nodes.
type nodeFault struct {
	name   string
	leader bool // the leader is hit
	also   bool // it applies to an engine with replicas and sentinels too
	hit    func(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error)
	cannot func(f *failover) string // why it cannot happen here; nil: it can everywhere
}

// nodeHit is a fault that is on.
type nodeHit struct {
	at       time.Time // when it began
	on       time.Time // from when on it was; zero: at once
	quiet    bool      // clients waited for it: it does not tell how long they wait for others
	mend     func(ctx context.Context) error
	happened string // why it did not happen, looked at from outside; empty when it did
}

var nodeFaults = []nodeFault{
	{name: "kill-leader", leader: true, also: true, hit: killing(theLeader)},
	{name: "kill-follower", also: true, hit: killing(aFollower)},
	{name: "kill-all", leader: true, also: true, hit: killing(everybody)},
	{name: "kill-two-leaders", leader: true, also: true, hit: killTwo},
	{name: "kill-leaders-engine", leader: true, hit: killingEngine(0)},
	{name: "kill-followers-engine", hit: killingEngine(1)},
	{name: "kill-engine-and-node", leader: true, hit: killBoth},
	{name: "kill-node-alone", cannot: func(*failover) string { return "the kernel ends an engine together with its node" }},
	{name: "pause-leader", leader: true, also: true, hit: freezing(false)},
	{name: "pause-leaders-engine", leader: true, hit: freezing(true)},
	{name: "late-answers", leader: true, hit: lateAnswers},
	{name: "isolate-leader", leader: true, also: true, hit: isolating(true, true, 0)},
	{name: "leader-hears-nobody", leader: true, also: true, hit: isolating(false, true, 0)},
	{name: "nobody-hears-leader", leader: true, also: true, hit: isolating(true, false, 0)},
	{name: "isolate-follower", also: true, hit: isolating(true, true, 1)},
	{name: "leader-with-minority", leader: true, also: true, hit: withMinority, cannot: needsFive},
	{name: "wake-isolated", also: true, hit: wakeIsolated},
	{name: "flap", leader: true, also: true, hit: flap},
	{name: "hand-over", leader: true, hit: handOver},
	{name: "full-disk", hit: fullDisk, cannot: func(f *failover) string { return f.noDisk }},
	{name: "slow-disk", hit: delayDisk, cannot: func(f *failover) string { return f.noWatch }},
	{name: "torn-tail", hit: tearTail, cannot: func(f *failover) string { return f.noWatch }},
	{name: "clock-jump", hit: jumpClock, cannot: func(f *failover) string { return f.noSkew }},
}

func needsFive(f *failover) string {
	if f.Nodes < 5 {
		return "of three nodes the leader alone is the minority; it needs --nodes 5"
	}
	return ""
}

func faultNames() (names []string) {
	for _, f := range nodeFaults {
		names = append(names, f.name)
	}
	return names
}

func theLeader(_ *nodeFleet, leader int) []int { return []int{leader} }

func aFollower(l *nodeFleet, leader int) []int { return []int{(leader + 1) % len(l.nodes)} }

func everybody(l *nodeFleet, _ int) (all []int) {
	for i := range l.nodes {
		all = append(all, i)
	}
	return all
}

type hitFunc = func(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error)

// killing kills nodes, and with them their engines; mending starts them again.
func killing(which func(l *nodeFleet, leader int) []int) hitFunc {
	return func(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
		leader, err := l.leader(ctx)
		if err != nil {
			return nil, err
		}
		victims := which(l, leader)
		engines := map[int]int{}
		for _, i := range victims {
			if pid, err := l.nodes[i].engine(); err == nil {
				engines[i] = pid
			}
		}
		hit := &nodeHit{at: time.Now()}
		for _, i := range victims {
			if !l.nodes[i].kill() {
				hit.happened = l.nodes[i].name + " had ended before"
			}
		}
		hit.on = time.Now()
		for i, pid := range engines {
			if !goneWithin(ctx, pid, 2*time.Second) {
				hit.happened = "the engine of " + l.nodes[i].name + " outlived it"
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
}

// killTwo kills the leader, and the next one as soon as there is one; the first is back by then.
func killTwo(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
	first, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	hit := &nodeHit{}
	if !l.nodes[first].kill() {
		hit.happened = "the leader had ended before"
	}
	second, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.start(first, false); err != nil {
		return nil, err
	}
	hit.at = time.Now()
	if !l.nodes[second].kill() {
		hit.happened = "the next leader had ended before"
	}
	hit.on = time.Now()
	hit.mend = func(context.Context) error { return l.start(second, false) }
	return hit, nil
}

func killingEngine(next int) hitFunc {
	return func(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
		leader, err := l.leader(ctx)
		if err != nil {
			return nil, err
		}
		pid, err := l.nodes[(leader+next)%len(l.nodes)].engine()
		if err != nil {
			return nil, err
		}
		hit := &nodeHit{at: time.Now(), mend: func(context.Context) error { return nil }}
		return hit, killPid(pid)
	}
}

// killBoth kills the engine first: the node may have begun to do something about it.
func killBoth(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	n := l.nodes[leader]
	engine, err := n.engine()
	if err != nil {
		return nil, err
	}
	hit := &nodeHit{at: time.Now()}
	if err := killPid(engine); err != nil {
		return nil, err
	}
	pauseFor(ctx, time.Duration(rng.IntN(30))*time.Millisecond)
	if !n.kill() {
		hit.happened = "the leader had ended before"
	}
	hit.on = time.Now()
	hit.mend = func(context.Context) error { return l.start(leader, false) }
	return hit, nil
}

func freezing(engine bool) hitFunc {
	return func(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
		leader, err := l.leader(ctx)
		if err != nil {
			return nil, err
		}
		return l.frozen(leader, engine)
	}
}

// frozen stops a node, or its engine, for longer than anybody waits for it.
func (l *nodeFleet) frozen(who int, engine bool) (_ *nodeHit, err error) {
	n := l.nodes[who]
	pid := n.child.cmd.Process.Pid
	if engine {
		if pid, err = n.engine(); err != nil {
			return nil, err
		}
	}
	hit := &nodeHit{at: time.Now(), mend: func(context.Context) error { n.resume(); return nil }}
	if err := stopPid(pid); err != nil {
		return nil, err
	}
	n.paused.Store(&pid)
	return hit, nil
}

// handOver moves leadership on purpose.
func handOver(ctx context.Context, l *nodeFleet, _ *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	hit := &nodeHit{at: time.Now(), mend: func(context.Context) error { return nil }}
	if err := l.transfer(ctx, leader); err != nil {
		return nil, err
	}
	if now, err := l.leader(ctx); err == nil && now == leader {
		hit.happened = "it leads still"
	}
	return hit, nil
}

// fullDisk leaves no room on the disk below the leader, or a follower.
func fullDisk(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	who := (leader + rng.IntN(2)) % len(l.nodes)
	n := l.nodes[who]
	hit := &nodeHit{at: time.Now()}
	filling, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		full, err := keepFull(filling, n.dir)
		if !full {
			hit.happened = "there was room on the disk"
		}
		done <- err
	}()
	hit.mend = func(context.Context) error {
		stop()
		if err := <-done; err != nil {
			return err
		}
		if ended(n.child.exited) { // a node that cannot write may give up; what supervises it starts it again
			n.kill()
			return l.start(who, false)
		}
		return nil
	}
	return hit, nil
}

// goneWithin says whether a process has ended.
func goneWithin(ctx context.Context, pid int, within time.Duration) bool {
	for end := time.Now().Add(within); time.Now().Before(end); {
		if state, ok := processState(pid); !ok || state == "Z" {
			return true
		}
		if !pauseFor(ctx, 5*time.Millisecond) {
			break
		}
	}
	return false
}
