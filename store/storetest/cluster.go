package storetest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	shards       = 3
	clusterSlots = 16384
)

// Shards is a cluster of the test's own: three masters, each with one replica.
type Shards struct {
	t      testing.TB
	scheme string
	shards [shards]shard
}

// shard is a master and its replica; a failover exchanges them.
type shard struct{ master, replica *node }

type node struct {
	*Server
	port, bus, id string
}

// Cluster starts a cluster and returns when every node serves all slots and has its replica.
func Cluster(t testing.TB) *Shards {
	t.Helper()
	return startCluster(t, settings{})
}

func startCluster(t testing.TB, with settings) *Shards {
	t.Helper()
	c := &Shards{t: t, scheme: with.scheme("redis-cluster")}
	var all []*node
	for i := range c.shards {
		c.shards[i] = shard{startShard(t, with), startShard(t, with)}
		all = append(all, c.shards[i].master, c.shards[i].replica)
	}
	for i, s := range c.shards {
		s.master.Admin(t, fmt.Sprintf("CLUSTER ADDSLOTSRANGE %d %d", i*clusterSlots/shards, (i+1)*clusterSlots/shards-1))
	}
	for i, n := range all {
		n.Admin(t, fmt.Sprintf("CLUSTER SET-CONFIG-EPOCH %d", i+1))
		all[0].Admin(t, fmt.Sprintf("CLUSTER MEET 127.0.0.1 %s %s", n.port, n.bus))
	}
	for _, s := range c.shards {
		poll(t, "the replica knows its master", func() bool {
			_, err := s.replica.ask("CLUSTER REPLICATE " + s.master.id)
			return err == nil
		})
	}
	for _, n := range all {
		poll(t, "every node sees the whole cluster", func() bool { return n.seesAll(t) })
	}
	for _, s := range c.shards {
		poll(t, "the replica is in step", func() bool {
			return strings.Contains(s.replica.Admin(t, "INFO replication"), "master_link_status:up")
		})
	}
	return c
}

func startShard(t testing.TB, with settings) *node {
	t.Helper()
	n := &node{port: freePort(t), bus: freePort(t)}
	n.Server = with.server(t, n.port, "--cluster-enabled", "yes", "--cluster-port", n.bus, "--cluster-node-timeout", "1000",
		"--repl-diskless-sync-delay", "0")
	n.id = n.Admin(t, "CLUSTER MYID")
	return n
}

// seesAll: it serves all slots and knows of as many replicas as there are masters.
func (n *node) seesAll(t testing.TB) bool {
	return strings.Contains(n.Admin(t, "CLUSTER INFO"), "cluster_state:ok") &&
		strings.Count(n.Admin(t, "CLUSTER NODES"), "slave ") == shards
}

// URL is what store.Open takes. It names the masters that there are now.
func (c *Shards) URL() string {
	var hosts []string
	for _, s := range c.shards {
		hosts = append(hosts, "127.0.0.1:"+s.master.port)
	}
	return c.scheme + strings.Join(hosts, ",")
}

// Master is the server that is a shard's master, as far as the test has made it so.
func (c *Shards) Master(shard int) *Server { return c.shards[shard].master.Server }

// Admin sends one command to every node, replicas too.
func (c *Shards) Admin(t testing.TB, command string) {
	t.Helper()
	for _, s := range c.shards {
		s.master.Admin(t, command)
		s.replica.Admin(t, command)
	}
}

// Shard is where a slot was put at the beginning.
func (c *Shards) Shard(slot uint16) int {
	for i := range shards - 1 {
		if int(slot) < (i+1)*clusterSlots/shards {
			return i
		}
	}
	return shards - 1
}

// Kill ends a shard's master with SIGKILL and returns when its replica has taken over.
func (c *Shards) Kill(shard int) {
	c.t.Helper()
	c.Master(shard).Kill()
	c.awaitReplica(shard)
}

// KillReplicas ends every replica with SIGKILL.
func (c *Shards) KillReplicas() {
	for _, s := range c.shards {
		s.replica.Kill()
	}
}

// Failover has a shard's replica take over by CLUSTER FAILOVER: planned, nothing is lost.
func (c *Shards) Failover(shard int) {
	c.t.Helper()
	c.shards[shard].replica.Admin(c.t, "CLUSTER FAILOVER")
	c.awaitReplica(shard)
}

func (c *Shards) awaitReplica(shard int) {
	c.t.Helper()
	s := &c.shards[shard]
	poll(c.t, "the replica has taken over", func() bool {
		return strings.HasPrefix(s.replica.Admin(c.t, "ROLE"), "[master")
	})
	s.master, s.replica = s.replica, s.master
}

// Pause stops a shard's master as it is; Resume lets it go on.
func (c *Shards) Pause(shard int) { c.Master(shard).signal(syscall.SIGSTOP) }

// Resume lets a paused master go on.
func (c *Shards) Resume(shard int) { c.Master(shard).signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := syscall.Kill(s.Pid(), sig); err != nil {
		s.t.Fatal(err)
	}
}

// BeginMove opens a slot for a move: for keys that it does not have its owner answers ASK.
func (c *Shards) BeginMove(slot uint16, from, to int) {
	c.t.Helper()
	source, target := c.shards[from].master, c.shards[to].master
	target.Admin(c.t, fmt.Sprintf("CLUSTER SETSLOT %d IMPORTING %s", slot, source.id))
	source.Admin(c.t, fmt.Sprintf("CLUSTER SETSLOT %d MIGRATING %s", slot, target.id))
}

// MoveSlot moves a slot with its keys from one shard to another while clients use it.
func (c *Shards) MoveSlot(slot uint16, from, to int) {
	c.t.Helper()
	c.BeginMove(slot, from, to)
	source, target := c.shards[from].master, c.shards[to].master
	for {
		// A key at a time, so that decisions on several keys meet a slot that is half there.
		keys := strings.Trim(source.Admin(c.t, fmt.Sprintf("CLUSTER GETKEYSINSLOT %d 1", slot)), "[]")
		if keys == "" {
			break
		}
		source.Admin(c.t, fmt.Sprintf("MIGRATE 127.0.0.1 %s \"\" 0 5000 KEYS %s", target.port, keys))
	}
	for _, n := range []*node{target, source} {
		n.Admin(c.t, fmt.Sprintf("CLUSTER SETSLOT %d NODE %s", slot, target.id))
	}
}

// freePort is a port that nobody listens on, below those that the kernel gives to
// connections: a cluster makes many of these before its last node listens.
func freePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(15000 + rand.IntN(17000))
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			_ = l.Close() // it was never used
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}

const settleWithin = 20 * time.Second

func poll(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(settleWithin); !ok(); time.Sleep(10 * pollEvery) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", settleWithin, what)
		}
	}
}

// Lingering are goroutines of a cluster's client that outlive it, and end by themselves within seconds: for packages that look
// for leaks.
func Lingering() []goleak.Option {
	const client = "github.com/valkey-io/valkey-go."
	return []goleak.Option{
		goleak.IgnoreAnyFunction(client + "(*call).DelayDo.func1"),
		goleak.IgnoreAnyFunction(client + "(*clusterClient).redirectOrNew.func1"),
		goleak.IgnoreAnyFunction(client + "(*clusterClient)._refresh.func2"),
	}
}
