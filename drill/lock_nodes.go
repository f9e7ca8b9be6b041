package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// lockNodeStore is three nodes as the store of locks. Holders ask the nodes themselves.
type lockNodeStore struct {
	*nodeStore
	d    *site
	skew time.Duration // of all engines
}

func newLockNodes(ctx context.Context, d *site) (lockEngine, error) {
	d.progress.say("starting three nodes")
	f := &failover{FailoverOptions: FailoverOptions{Nodes: 3, Binary: d.binary, Net: netProxies}, place: d.place, nursery: d.nursery, progress: d.progress,
		skew: d.shim, noDisk: "not of this drill", noWatch: "not of this drill"}
	fleet, err := newNodeFleet(ctx, f)
	if err != nil {
		return nil, err
	}
	return &lockNodeStore{&nodeStore{fleet}, d, 0}, nil
}

func (s *lockNodeStore) flags(int) []string {
	var all []string
	for _, node := range s.nodes {
		all = append(all, node.clients)
	}
	return []string{"--store", schemeNodes + strings.Join(all, ",")}
}

func (s *lockNodeStore) gates() []*door { return nil }

func (s *lockNodeStore) fault(name string) (f lockFault, why string) {
	if name == failOver {
		return f, "nodes do it by themselves: " + killEngine
	}
	return plainly(s, name)
}

func (s *lockNodeStore) harmed(name string) (f storeFault, why string) {
	switch name {
	case noFault:
		return nothingHappens, ""
	case killEngine:
		return storeFault{name: name, hit: s.kill}, ""
	case pauseEngine:
		return storeFault{name: name, hit: s.pause}, ""
	case isolateNodes:
		return storeFault{name: name, hit: s.isolate}, ""
	case clockJump:
		return storeFault{name: name, hit: s.jump, jumps: true}, s.d.noShim
	}
	return f, "holders ask the nodes without a proxy: " + isolateNodes
}

// kill kills the node that leads, with its engine, when it has not reached the others for a moment.
func (s *lockNodeStore) kill(ctx context.Context, held time.Duration, _ *rand.Rand) (string, error) {
	pauseFor(ctx, held/4)
	hit, err := s.killed(ctx)
	if err == nil && !hit {
		return "it had ended before", nil
	}
	return "", err
}

// pause stops the node that leads, or its engine.
func (s *lockNodeStore) pause(ctx context.Context, held time.Duration, rng *rand.Rand) (string, error) {
	leader, err := s.leader(ctx)
	if err != nil {
		return "", err
	}
	hit, err := s.frozen(leader, rng.IntN(2) == 0)
	if err != nil {
		return "", err
	}
	return s.over(ctx, held, hit)
}

func (s *lockNodeStore) isolate(ctx context.Context, held time.Duration, rng *rand.Rand) (string, error) {
	leader, err := s.leader(ctx)
	if err != nil {
		return "", err
	}
	hit, err := s.parted(rng, []int{leader}, true, true)
	if err != nil {
		return "", err
	}
	return s.over(ctx, held, hit)
}

// over ends a fault when its time is over.
func (s *lockNodeStore) over(ctx context.Context, held time.Duration, hit *nodeHit) (string, error) {
	pauseFor(ctx, held-time.Since(hit.at))
	if err := hit.mend(ctx); err != nil {
		return "", err
	}
	return hit.happened, s.answers(ctx)
}

// jump puts the clock of the engine that leads wrong, or right again; half of the time an engine whose clock says
// something else leads next. In the end all say the same.
func (s *lockNodeStore) jump(ctx context.Context, held time.Duration, rng *rand.Rand) (happened string, err error) {
	by, transfer := jumpOf(rng), rng.IntN(2) == 0
	if s.skew != 0 {
		by = 0
	}
	leader, err := s.leader(ctx)
	if err != nil {
		return "", err
	}
	if err := setSkew(s.nodes[leader].skew, by); err != nil {
		return "", fmt.Errorf("drill: %w", err)
	}
	began := time.Now()
	told, err := s.nodes[leader].timeOfEngine()
	if err != nil {
		return "", fmt.Errorf("drill: %w", err)
	}
	if off := time.Until(told) - by; off < -5*time.Second || off > 5*time.Second {
		happened = fmt.Sprintf("the engine's clock is off by %s more than it was put", off)
	}
	if transfer {
		pauseFor(ctx, held/2)
		if err := s.transfer(ctx, leader); err != nil {
			return "", fmt.Errorf("drill: %w", err)
		}
	}
	pauseFor(ctx, held-time.Since(began))
	for _, n := range s.nodes {
		err = errors.Join(err, setSkew(n.skew, by))
	}
	s.skew = by
	if err != nil {
		return "", fmt.Errorf("drill: %w", err)
	}
	return happened, s.answers(ctx)
}
