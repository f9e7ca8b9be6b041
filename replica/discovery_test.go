package replica_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
	"github.com/holdfast-dev/holdfast/store"
)

// named is whom a node's sentinel names; "" is nobody.
func (m *member) named(t *testing.T) string {
	t.Helper()
	conn, err := net.Dial("tcp", m.sentinel)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{conn, bufio.NewReader(conn)}
	defer c.close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	count, err := c.do("SENTINEL", "get-master-addr-by-name", replica.DefaultSentinelName)
	if err != nil {
		t.Fatal(err)
	}
	if count != "*2" {
		return ""
	}
	var words [4]string
	for i := range words {
		if words[i], err = c.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return net.JoinHostPort(strings.TrimSpace(words[1]), strings.TrimSpace(words[3]))
}

// Every node names the leader, after each change of it; one that is alone names nobody.
func TestSentinelsNameTheLeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	agree := func() {
		t.Helper()
		w.eventually("all name the leader", func() bool {
			leader := w.nodes[w.leader()].clients
			for _, m := range w.nodes {
				if m.Node != nil && m.named(t) != leader {
					return false
				}
			}
			return true
		})
	}
	agree()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := w.nodes[w.leader()].HandOver(ctx); err != nil {
		t.Fatal(err)
	}
	agree()
	old := w.leader()
	w.kill(old)
	agree()
	w.open(old)
	agree()
	w.kill(0)
	w.kill(1)
	w.eventually("the last one names nobody", func() bool { return w.nodes[2].named(t) == "" })
}

// A store whose URL names sentinels, of which it is not told that they are nodes, goes on.
func TestStoreBySentinels(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	var hosts []string
	for _, m := range w.nodes {
		hosts = append(hosts, m.sentinel)
	}
	s, err := store.Open(t.Context(), "redis-sentinel://"+strings.Join(hosts, ",")+"/"+replica.DefaultSentinelName, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for range 2 {
		old := w.leader()
		w.kill(old)
		w.leader()
		w.eventually("the store goes on", func() bool { return s.Ping(t.Context()) == nil })
		w.open(old)
	}
}

func TestWhatSentinelsCannotTell(t *testing.T) {
	need(t)
	for _, c := range []struct{ clients, advertise, advertiseSentinel, says string }{
		{"0.0.0.0:0", "", "", "all of this machine's"},
		{"[::]:0", "", "", "all of this machine's"},
		{"127.0.0.1:0", "db1.example", "", "missing port"},
		{"127.0.0.1:0", "", ":7", "all of this machine's"},
		{"127.0.0.1:0", "", "0.0.0.0:7", "all of this machine's"},
	} {
		t.Run(fmt.Sprint(c.clients, c.advertise, c.advertiseSentinel), func(t *testing.T) {
			listen := func(addr string) net.Listener {
				l, err := net.Listen("tcp", addr)
				if err != nil {
					t.Skip(err)
				}
				return l
			}
			n, err := replica.Open(t.Context(), replica.Config{Dir: t.TempDir(), Secret: secret, Clients: listen(c.clients), Raft: listen("127.0.0.1:0"),
				Sentinel: listen("127.0.0.1:0"), AdvertiseClients: c.advertise, AdvertiseSentinel: c.advertiseSentinel})
			if err == nil {
				_ = n.Close()
			}
			if !errors.Is(err, replica.ErrConfig) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}
