package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// lockRedisStore is a Valkey or Redis of the drill's own, with a replica that takes over or without one. Holders reach
// it through two doors; a replica reaches it through a third.
type lockRedisStore struct {
	d        *site
	program  string
	classB   bool
	engines  []*lockRedisEngine
	primary  int
	doors    []*door
	link     *door         // to the primary, for its replica; nil: there is none
	skew     time.Duration // of all engines
	farthest time.Duration // ahead that a clock ever was
}

type lockRedisEngine struct {
	addr, dir, log, skew string
	child                *child
}

func newLockRedis(ctx context.Context, d *site) (_ lockEngine, err error) {
	program, more, _ := strings.Cut(d.store, "?")
	s := &lockRedisStore{d: d, program: program, classB: more == "class=b"}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	n := 1
	if more == "replica" {
		n = 2
	}
	for i := range n {
		e := &lockRedisEngine{dir: filepath.Join(d.place.disk(), fmt.Sprint("engine-", i)), log: filepath.Join(d.place.dir, fmt.Sprintf("engine-%d.log", i)),
			skew: filepath.Join(d.place.dir, fmt.Sprintf("engine-%d.skew", i))}
		if e.addr, err = freeAddr("127.0.0.1"); err != nil {
			return nil, fmt.Errorf("drill: %w", err)
		}
		if err = errors.Join(os.Mkdir(e.dir, 0o700), setSkew(e.skew, 0)); err != nil {
			return nil, fmt.Errorf("drill: %w", err)
		}
		s.engines = append(s.engines, e)
	}
	for range 2 {
		gate, err := newDoor(s.engines[0].addr)
		if err != nil {
			return nil, fmt.Errorf("drill: %w", err)
		}
		s.doors = append(s.doors, gate)
	}
	if n == 2 {
		if s.link, err = newDoor(s.engines[0].addr); err != nil {
			return nil, fmt.Errorf("drill: %w", err)
		}
	}
	for i := range s.engines {
		if err := s.start(ctx, i); err != nil {
			return nil, err
		}
	}
	return s, s.replicates(ctx)
}

// start runs an engine; all but the primary follow it.
func (s *lockRedisStore) start(ctx context.Context, i int) (err error) {
	e := s.engines[i]
	_, port, _ := net.SplitHostPort(e.addr)
	args := []string{"--port", port, "--bind", "127.0.0.1", "--dir", e.dir, "--save", "", "--repl-diskless-sync-delay", "0", "--appendonly", "no"}
	if s.classB {
		args = append(args[:len(args)-1], "yes", "--appendfsync", "always")
	}
	if i != s.primary {
		_, port, _ := net.SplitHostPort(s.link.addr())
		args = append(args, "--replicaof", "127.0.0.1 "+port)
	}
	cmd := exec.Command(s.program, args...)
	if s.d.shim != "" {
		cmd.Env = append(os.Environ(), "LD_PRELOAD="+s.d.shim, "HOLDFAST_DRILL_SKEW="+e.skew)
	}
	if e.child, err = s.d.nursery.run(cmd, e.log); err != nil {
		return err
	}
	return s.answers(ctx, i)
}

// answers waits until an engine does.
func (s *lockRedisStore) answers(ctx context.Context, i int) error {
	var last error
	for end := time.Now().Add(engineWithin); time.Now().Before(end); {
		var answer any
		if answer, last = s.tell(i, "PING"); last == nil && answer == "PONG" {
			return nil
		}
		if ended(s.engines[i].child.exited) || !pauseFor(ctx, 5*time.Millisecond) {
			break
		}
	}
	return fmt.Errorf("drill: %s does not answer: %w\n%s", s.program, errors.Join(last, ctx.Err()), tail(s.engines[i].log))
}

func (s *lockRedisStore) tell(i int, words ...string) (any, error) {
	return tellOnce(func() (*respConn, error) { return dialRESP(s.engines[i].addr) }, words...)
}

// replicates waits until the replica has what its primary has.
func (s *lockRedisStore) replicates(ctx context.Context) error {
	if s.link == nil {
		return nil
	}
	for end := time.Now().Add(engineWithin); time.Now().Before(end); {
		answer, err := s.tell(1-s.primary, "ROLE")
		if parts, _ := answer.([]any); err == nil && len(parts) > 3 && parts[0] == "slave" && parts[3] == "connected" {
			return nil
		}
		if !pauseFor(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("drill: the replica does not follow\n%s", tail(s.engines[1-s.primary].log))
}

func (s *lockRedisStore) flags(who int) []string {
	url := "redis://" + s.doors[who%len(s.doors)].addr()
	if s.classB {
		url += "?class=b"
	}
	return []string{"--store", url}
}

func (s *lockRedisStore) close() {
	for _, e := range s.engines {
		if e.child != nil {
			e.child.kill()
		}
	}
	for _, gate := range s.doors {
		gate.close()
	}
	if s.link != nil {
		s.link.close()
	}
}

func (s *lockRedisStore) gates() []*door { return s.doors }

func (s *lockRedisStore) fault(name string) (f lockFault, why string) {
	switch {
	case name == cutHolders:
		return parting(s.doors), ""
	case name == failOver && s.link == nil:
		return f, "there is no replica"
	case name == failOver:
		return lockFault{name: name, hit: s.failover, forgets: true, jumps: true}, ""
	}
	return plainly(s, name)
}

func (s *lockRedisStore) harmed(name string) (f storeFault, why string) {
	switch name {
	case noFault:
		return nothingHappens, ""
	case killEngine:
		return storeFault{name: name, hit: s.kill, forgets: !s.classB}, ""
	case pauseEngine:
		return storeFault{name: name, hit: func(ctx context.Context, held time.Duration, _ *rand.Rand) (string, error) {
			return standing(ctx, s.engines[s.primary].child.cmd.Process.Pid, held)
		}}, ""
	case clockJump:
		return storeFault{name: name, hit: s.jump, jumps: true}, s.d.noShim
	}
	return f, "these are no nodes"
}

// setAll puts the clocks of all engines.
func (s *lockRedisStore) setAll(by time.Duration) (err error) {
	s.skew, s.farthest = by, max(s.farthest, by)
	for _, e := range s.engines {
		err = errors.Join(err, setSkew(e.skew, by))
	}
	return err
}

// kill kills the engine and starts it again at once. Where it forgets, its clock is not behind what it had given
// out: without that nothing is promised.
func (s *lockRedisStore) kill(ctx context.Context, held time.Duration, _ *rand.Rand) (happened string, err error) {
	pauseFor(ctx, held/4)
	if !s.engines[s.primary].child.kill() {
		happened = "it had ended before"
	}
	if !s.classB {
		err = s.setAll(s.farthest)
	}
	if err == nil {
		err = s.start(ctx, s.primary)
	}
	if err == nil {
		err = s.replicates(ctx)
	}
	return happened, err
}

// jump puts the clocks wrong by up to half a minute, and another time right again.
func (s *lockRedisStore) jump(ctx context.Context, held time.Duration, rng *rand.Rand) (happened string, err error) {
	by := jumpOf(rng)
	if s.skew != 0 {
		by = 0
	}
	if err := s.setAll(by); err != nil {
		return "", fmt.Errorf("drill: %w", err)
	}
	answer, err := s.tell(s.primary, "TIME")
	if err != nil {
		return "", fmt.Errorf("drill: %w", err)
	}
	if off := time.Until(time.Unix(numberOf(answer), 0)) - by; off < -5*time.Second || off > 5*time.Second {
		happened = fmt.Sprintf("the engine's clock is off by %s more than it was put", off)
	}
	pauseFor(ctx, held)
	return happened, ctx.Err()
}

// failover has the replica take over while it lags: it has not got the last leases.
func (s *lockRedisStore) failover(ctx context.Context, r *lockRound, _ *rand.Rand) (happened string, err error) {
	s.link.cut(true, true)
	before := r.leases()
	if !r.until(ctx, func() bool { return r.leases() >= before+3 }) {
		happened = "nobody had a lease while the replica lagged"
	}
	old := s.primary
	if !s.engines[old].child.kill() {
		happened = "the primary had ended before"
	}
	s.primary = 1 - old
	if err := s.setAll(s.farthest); err != nil {
		return happened, fmt.Errorf("drill: %w", err)
	}
	if _, err := s.tell(s.primary, "REPLICAOF", "NO", "ONE"); err != nil {
		return happened, fmt.Errorf("drill: %w", err)
	}
	for _, gate := range append([]*door{s.link}, s.doors...) {
		gate.lead(s.engines[s.primary].addr)
	}
	s.link.mend(true)
	if err := s.start(ctx, old); err != nil {
		return happened, err
	}
	return happened, s.replicates(ctx)
}
