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

// Others go where they are told: the addresses of all of a machine lead them to themselves.
func TestAddressesNobodyReaches(t *testing.T) {
	const local = "127.0.0.1:0"
	for _, c := range []struct{ clients, advertise, advertiseSentinel, raft, advertiseRaft, says string }{
		{"0.0.0.0:0", "", "", local, "", "with --advertise "},
		{"[::]:0", "", "", local, "", "with --advertise "},
		{local, "db1.example", "", local, "", "missing port"},
		{local, "", ":7", local, "", "with --sentinel-advertise "},
		{local, "", "0.0.0.0:7", local, "", "all of this machine's"},
		{local, "", "none", "0.0.0.0:0", "", "with --raft-advertise "},
		{local, "", "none", "[::]:0", "", "with --raft-advertise "},
		{local, "", "none", ":0", "", "with --raft-advertise "},
		{local, "", "none", local, ":7", "with --raft-advertise "},
		{local, "", "none", local, "db1.example", "--raft-advertise): "},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			listen := func(addr string) net.Listener {
				l, err := net.Listen("tcp", addr)
				if err != nil {
					t.Skip(err)
				}
				return l
			}
			cfg := replica.Config{Dir: t.TempDir(), Secret: secret, Clients: listen(c.clients), Raft: listen(c.raft),
				AdvertiseClients: c.advertise, AdvertiseRaft: c.advertiseRaft, AdvertiseSentinel: c.advertiseSentinel}
			if c.advertiseSentinel != "none" {
				cfg.Sentinel = listen(local)
			}
			n, err := replica.Open(t.Context(), cfg)
			if err == nil {
				_ = n.Close()
			}
			if !errors.Is(err, replica.ErrConfig) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}
