package drill

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"time"
)

// lockServer is the embedded engine behind one server, which holders or callers ask over HTTP.
type lockServer struct {
	d     *site
	fleet *fleet
	doors []*door
}

func newLockServer(d *site) (_ lockEngine, err error) {
	s := &lockServer{d: d, fleet: &fleet{nursery: d.nursery, dir: d.place.dir, bin: d.binary, args: []string{
		"--store", d.place.store, "--db", "sqlite:" + filepath.Join(d.place.disk(), "server.db"),
		"--provider", "http://127.0.0.1:1", // nobody pays here
	}}}
	if d.rules != "" {
		s.fleet.args = append(s.fleet.args, "--limits", d.rulesFile(), "--limits-timeout", d.timeout().String())
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := s.fleet.start(context.Background(), 1); err != nil {
		return nil, err
	}
	for range 2 {
		gate, err := newDoor(s.fleet.servers[0].addr)
		if err != nil {
			return nil, err
		}
		s.doors = append(s.doors, gate)
	}
	return s, nil
}

func (s *lockServer) flags(who int) []string {
	return []string{"--api", "http://" + s.doors[who%len(s.doors)].addr()}
}

func (s *lockServer) close() {
	s.fleet.abandon()
	for _, gate := range s.doors {
		gate.close()
	}
}

// clockReserve is how far ahead of the clock the embedded engine begins after a crash: its time never goes back.
const clockReserve = time.Second

func (s *lockServer) gates() []*door { return s.doors }

func (s *lockServer) fault(name string) (f lockFault, why string) {
	switch name {
	case cutHolders:
		return parting(s.doors), ""
	case failOver:
		return f, "one process has no replica"
	}
	return plainly(s, name)
}

func (s *lockServer) harmed(name string) (f storeFault, why string) {
	switch name {
	case noFault:
		return nothingHappens, ""
	case killEngine:
		return storeFault{name: name, shifts: clockReserve, hit: func(ctx context.Context, held time.Duration, _ *rand.Rand) (string, error) {
			pauseFor(ctx, held/4)
			hit, err := s.fleet.kill(0)
			if err == nil && !hit {
				return "it had ended before", nil
			}
			return "", err
		}}, ""
	case pauseEngine:
		return storeFault{name: name, hit: func(ctx context.Context, held time.Duration, _ *rand.Rand) (string, error) {
			return standing(ctx, s.fleet.servers[0].child.cmd.Process.Pid, held)
		}}, ""
	case clockJump:
		return f, "the embedded engine asks the kernel, past any library, and its clock never goes back"
	}
	return f, "these are no nodes"
}
