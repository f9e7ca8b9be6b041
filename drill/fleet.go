package drill

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	readyWithin = 30 * time.Second
	stopWithin  = 20 * time.Second
	startTries  = 3 // somebody else may hold the port for a moment
)

// fleet is the servers of a drill.
type fleet struct {
	nursery *nursery
	dir     string
	bin     string
	args    []string // of every server

	mu      sync.Mutex
	servers []*member
	starts  int
}

// member is one server; it keeps its address over its deaths.
type member struct {
	child *child
	addr  string
}

// start begins n servers, one after the other: the first one makes the schema.
func (f *fleet) start(ctx context.Context, n int) error {
	for range n {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m := &member{addr: "127.0.0.1:0"}
		if err := f.launch(m, len(f.servers)); err != nil {
			return err
		}
		f.mu.Lock()
		f.servers = append(f.servers, m)
		f.mu.Unlock()
	}
	return nil
}

// launch runs a server on its address and waits until it is ready.
func (f *fleet) launch(m *member, i int) (err error) {
	log := filepath.Join(f.dir, fmt.Sprintf("server-%d.log", i))
	for range startTries {
		f.mu.Lock()
		f.starts++
		ready := filepath.Join(f.dir, fmt.Sprintf("ready-%d", f.starts))
		f.mu.Unlock()
		args := append([]string{"serve", "--log-level", "warn", "--listen", m.addr, "--ready-file", ready}, f.args...)
		var c *child
		if c, err = f.nursery.start(f.bin, log, args...); err != nil {
			return err
		}
		var addr string
		if addr, err = c.ready(ready, readyWithin); err == nil {
			f.mu.Lock()
			m.child, m.addr = c, addr
			f.mu.Unlock()
			return nil
		}
		c.kill()
		if !strings.Contains(err.Error(), "address already in use") {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// pick is the address of some server, whether it is up or not: clients do not know.
func (f *fleet) pick() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return "http://" + f.servers[rand.IntN(len(f.servers))].addr
}

// addresses are those of all servers.
func (f *fleet) addresses() (all []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.servers {
		all = append(all, "http://"+m.addr)
	}
	return all
}

// kill sends SIGKILL to a server and starts it again at once. Hit says whether it was alive.
func (f *fleet) kill(i int) (hit bool, err error) {
	f.mu.Lock()
	m := f.servers[i]
	c := m.child
	f.mu.Unlock()
	hit = c.kill()
	return hit, f.launch(m, i)
}

// stop ends all servers in order and says what was not clean.
func (f *fleet) stop() (unclean []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs := make([]error, len(f.servers))
	var wg sync.WaitGroup
	for i, m := range f.servers {
		wg.Go(func() { errs[i] = m.child.stop(stopWithin) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			unclean = append(unclean, fmt.Sprintf("server %d did not end cleanly: %v", i, err))
		}
	}
	f.servers = nil
	return unclean
}

// abandon ends what is left without waiting.
func (f *fleet) abandon() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.servers {
		m.child.kill()
	}
	f.servers = nil
}
