package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-dev/holdfast/replica"
)

func TestOneNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	if got := w.do("SET", "k", "v"); got != "+OK" {
		t.Fatal(got)
	}
	w.kill(0)
	w.open(0)
	if got := w.do("GET", "k"); got != "v" {
		t.Fatalf("after a restart: %q", got)
	}
}

// Any node takes any client.
func TestTunnels(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	for i := range w.nodes {
		c, err := w.dial(i)
		if err != nil {
			t.Fatal(err)
		}
		for k := range 3 {
			if got, err := c.do("INCR", "n"); err != nil || got != fmt.Sprintf(":%d", i*3+k+1) {
				t.Fatalf("node %d: %q, %v", i, got, err)
			}
		}
		if role, err := c.do("ROLE"); err != nil || role != "*3" {
			t.Fatalf("node %d: a client that asks for a master is told %q, %v", i, role, err)
		}
		c.close()
	}
}

// storm writes members of sets from several clients and remembers what was acknowledged.
type storm struct {
	w     *world
	pause time.Duration // of each client after an answer
	stop  chan struct{}
	wg    sync.WaitGroup
	mu    sync.Mutex
	acked []string
	count atomic.Int64
}

func (w *world) storm() *storm { return w.stormOf(0) }

// breeze is a storm that leaves the processors to others.
func (w *world) breeze() *storm { return w.stormOf(5 * time.Millisecond) }

func (w *world) stormOf(pause time.Duration) *storm {
	s := &storm{w: w, pause: pause, stop: make(chan struct{})}
	for i := range 4 {
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.write(i)
		}()
	}
	return s
}

func (s *storm) write(who int) {
	at := who
	for k := 0; ; {
		c, err := s.w.dial(at % len(s.w.nodes))
		for err == nil {
			word := fmt.Sprintf("%d-%d", who, k)
			k++
			if _, err = c.do("SADD", "storm", word); err == nil {
				s.mu.Lock()
				s.acked = append(s.acked, word)
				s.mu.Unlock()
				s.count.Add(1)
			}
			time.Sleep(s.pause)
			select {
			case <-s.stop:
				c.close()
				return
			default:
			}
		}
		if c != nil {
			c.close()
		}
		at++
		select {
		case <-s.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// more waits for so many more acknowledgements.
func (s *storm) more(n int64) {
	s.w.t.Helper()
	want := s.count.Load() + n
	s.w.eventually("writes go on", func() bool { return s.count.Load() >= want })
}

// forget gives up what was acknowledged later than the first n.
func (s *storm) forget(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = s.acked[:n]
}

// end stops the storm and looks at the data for all that was acknowledged.
func (s *storm) end() {
	s.w.t.Helper()
	close(s.stop)
	s.wg.Wait()
	missing := 0
	for _, word := range s.acked {
		if s.w.do("SISMEMBER", "storm", word) != ":1" {
			missing++
		}
		if missing > 10 {
			break
		}
	}
	if missing > 0 {
		s.w.t.Fatalf("%d or more of %d acknowledged writes are missing", missing, len(s.acked))
	}
}

func TestLeaderIsKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	s := w.storm()
	for range 3 {
		s.more(200)
		old := w.leader()
		w.kill(old)
		s.more(200)
		w.open(old)
	}
	s.more(200)
	s.end()
	w.sameDigests()
}

// sameDigests compares the engines, once all have come to the same offset.
func (w *world) sameDigests() {
	w.t.Helper()
	w.eventually("all engines are equal", func() bool {
		var all []string
		for _, m := range w.nodes {
			offset, d, err := m.Digest(context.Background())
			if err != nil {
				return false
			}
			all = append(all, fmt.Sprint(offset, d))
		}
		for _, d := range all {
			if d != all[0] {
				return false
			}
		}
		return true
	})
}

func TestEngineIsKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	s := w.storm()
	for range 3 {
		s.more(200)
		p, err := os.FindProcess(w.status().Engine.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		s.more(200)
	}
	s.end()
	w.sameDigests()
}

func TestAllAreKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	s := w.storm()
	for range 2 {
		s.more(300)
		for i := range w.nodes {
			w.kill(i)
		}
		for i := range w.nodes {
			w.open(i)
		}
	}
	s.more(300)
	s.end()
	w.sameDigests()
}

// Leadership is handed over on purpose: writes wait, none is lost, and not for long.
func TestHandOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	s := w.storm()
	s.more(200)
	for range 4 {
		old := w.leader()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := w.nodes[old].HandOver(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		s.more(200)
		if now := w.leader(); now == old {
			t.Fatal("it leads still")
		}
	}
	s.end()
}

func TestMembers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.do("SET", "k", "v")
	a, err := replica.NewAdmin(secret)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	leader := w.leader()
	out := (leader + 1) % 3
	ask := w.nodes[(leader+2)%3].raft // not the leader: it passes it on
	if err := a.Leave(t.Context(), ask, w.nodes[out].name); err != nil {
		t.Fatal(err)
	}
	w.kill(out)
	if n := len(w.status().Nodes); n != 2 {
		t.Fatalf("%d nodes are left", n)
	}
	if err := a.Transfer(t.Context(), ask, ""); err != nil {
		t.Fatal(err)
	}
	if got := w.do("GET", "k"); got != "v" {
		t.Fatal(got)
	}
	if err := a.Leave(t.Context(), ask, "nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Fatalf("got %v", err)
	}
}

func TestWhoCannotJoin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	open := func(secret []byte) error {
		clients, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		raft, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		n, err := replica.Open(ctx, replica.Config{Dir: t.TempDir(), Name: "n1", Secret: secret, Clients: clients, Raft: raft,
			Join: []string{w.nodes[0].raft}, Logger: w.logger(w.nodes[0])})
		if err == nil {
			_ = n.Close()
		}
		return err
	}
	if err := open(bytes.Repeat([]byte("x"), 32)); !errors.Is(err, replica.ErrJoin) || !strings.Contains(err.Error(), "secret") {
		t.Errorf("with another secret: %v", err)
	}
	if err := open([]byte("short")); !errors.Is(err, replica.ErrConfig) {
		t.Errorf("with a short secret: %v", err)
	}
	if err := open(secret); !errors.Is(err, replica.ErrJoin) || !strings.Contains(err.Error(), `such a node already: "n1"`) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("under a name that is taken: %v", err)
	}
}

// All nodes lose power at once, under load: their disks keep what was synced and nothing else.
// Whatever had been acknowledged by then is there afterwards.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	need(t)
	w := &world{t: t}
	for i := range 3 {
		w.nodes = append(w.nodes, &member{name: fmt.Sprint("n", i+1), dir: t.TempDir(), fs: vfs.NewCrashableMem()})
		w.open(i)
	}
	t.Cleanup(func() {
		for i := range w.nodes {
			w.kill(i)
		}
	})
	s := w.storm()
	for range 3 {
		s.more(300)
		s.mu.Lock()
		acked := len(s.acked)
		s.mu.Unlock()
		after := map[int]vfs.FS{}
		for i, m := range w.nodes {
			after[i] = m.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
		}
		for i, m := range w.nodes {
			w.kill(i)
			m.fs = after[i]
		}
		s.forget(acked) // what was acknowledged after that moment is not asked for
		for i := range w.nodes {
			w.open(i)
		}
	}
	s.more(300)
	s.end()
	w.sameDigests()
}
