package replica_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-dev/holdfast/replica"
)

// world is a cluster of real engines whose nodes run in this process.
type world struct {
	t      testing.TB
	nodes  []*member
	change func(*replica.Config) // may be nil
}

type member struct {
	*replica.Node
	name          string
	dir           string
	clients, raft string
	sentinel      string
	fs            vfs.FS
	reserve       int64
}

// testReserve is the reserve of a node whose test does not say otherwise.
const testReserve = 1 << 20

var secret = bytes.Repeat([]byte("s"), 32)

func need(t testing.TB) {
	t.Helper()
	for _, name := range []string{"valkey-server", "redis-server"} {
		if _, err := exec.LookPath(name); err == nil {
			return
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("neither valkey-server nor redis-server is installed; run scripts/deps")
	}
	t.Skip("neither valkey-server nor redis-server is installed")
}

func newWorld(t testing.TB, nodes int) *world {
	t.Helper()
	return newWorldOn(t, nodes, func() vfs.FS { return nil })
}

func newWorldOn(t testing.TB, nodes int, disk func() vfs.FS) *world {
	t.Helper()
	return (&world{t: t}).begin(nodes, disk)
}

func newWorldWith(t testing.TB, nodes int, change func(*replica.Config)) *world {
	t.Helper()
	return (&world{t: t, change: change}).begin(nodes, func() vfs.FS { return nil })
}

func (w *world) begin(nodes int, disk func() vfs.FS) *world {
	w.t.Helper()
	t := w.t
	need(t)
	for i := range nodes {
		w.nodes = append(w.nodes, &member{name: fmt.Sprint("n", i+1), dir: t.TempDir(), fs: disk()})
		w.open(i)
	}
	t.Cleanup(func() {
		for i := range w.nodes {
			w.kill(i)
		}
	})
	w.eventually("all have a vote", func() bool {
		s := w.status()
		voters := 0
		for _, n := range s.Nodes {
			if n.Voter {
				voters++
			}
		}
		return voters == nodes && s.Leads
	})
	return w
}

func (w *world) logger(m *member) *slog.Logger {
	if os.Getenv("HOLDFAST_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", m.name)
}

// open starts a node, anew or again.
func (w *world) open(i int) {
	w.t.Helper()
	m := w.nodes[i]
	cfg := replica.Config{Dir: m.dir, Name: m.name, Secret: secret, FS: m.fs, Reserve: max(m.reserve, testReserve), Logger: w.logger(m),
		Clients: w.listen(&m.clients), Raft: w.listen(&m.raft), Sentinel: w.listen(&m.sentinel)}
	if i > 0 {
		cfg.Join = []string{w.nodes[0].raft}
	}
	if w.change != nil {
		w.change(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	n, err := replica.Open(ctx, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	m.Node = n
}

// listen takes a node's address, or a new one: below the ports that the kernel gives to connections, so
// that nobody has got it while the node is down.
func (w *world) listen(addr *string) (l net.Listener) {
	w.eventually("the port is free", func() bool {
		at := *addr
		if at == "" {
			at = fmt.Sprint("127.0.0.1:", 15000+mathrand.IntN(17000))
		}
		var err error
		if l, err = net.Listen("tcp", at); err == nil && *addr == "" { // who writes in the background reads it
			*addr = at
		}
		return err == nil
	})
	return l
}

// kill ends a node without a hand-over.
func (w *world) kill(i int) {
	m := w.nodes[i]
	if m.Node == nil {
		return
	}
	if err := m.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		w.t.Error(err)
	}
	m.Node = nil
}

// status is what the leader says, or what anybody does.
func (w *world) status() (s replica.Status) {
	for _, m := range w.nodes {
		if m.Node == nil {
			continue
		}
		if s = m.Status(context.Background()); s.Leads {
			return s
		}
	}
	return s
}

func (w *world) leader() int {
	w.t.Helper()
	found := -1
	w.eventually("a leader", func() bool {
		for i, m := range w.nodes {
			if m.Node != nil && m.Status(context.Background()).Leads {
				found = i
				return true
			}
		}
		return false
	})
	return found
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	w.within(20*time.Second, what, ok)
}

func (w *world) within(d time.Duration, what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("still not: %s", what)
		}
	}
}

// client speaks to one node.
type client struct {
	conn net.Conn
	r    *bufio.Reader
}

func (w *world) dial(i int) (*client, error) {
	c, err := net.Dial("tcp", w.nodes[i].clients)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{c, bufio.NewReader(c)}, nil
}

func (c *client) close() { _ = c.conn.Close() }

// do sends a command and returns a simple answer, or a short string.
func (c *client) do(words ...string) (string, error) {
	b := fmt.Appendf(nil, "*%d\r\n", len(words))
	for _, word := range words {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := c.conn.Write(b); err != nil {
		return "", err
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSpace(line)
	if line[0] == '-' {
		return "", errors.New(line)
	}
	if line[0] == '$' && line != "$-1" {
		text, err := c.r.ReadString('\n')
		return strings.TrimSpace(text), err
	}
	return line, nil
}

// noise is what does not compress.
func noise(size int) string {
	b := make([]byte, size)
	_, _ = rand.Read(b) // never fails
	return string(b)
}

// do asks any node that answers until one does.
func (w *world) do(words ...string) (answer string) {
	w.t.Helper()
	var last error
	w.eventually(strings.Join(words, " "), func() bool {
		for i, m := range w.nodes {
			if m.Node == nil {
				continue
			}
			var c *client
			if c, last = w.dial(i); last != nil {
				continue
			}
			answer, last = c.do(words...)
			c.close()
			if last == nil {
				return true
			}
		}
		return false
	})
	return answer
}
