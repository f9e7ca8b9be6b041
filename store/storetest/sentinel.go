package storetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	sentinels  = 3
	masterName = "main"
)

// Watch is one master with one replica and three sentinels that watch over them.
type Watch struct {
	t               testing.TB
	with            settings
	master, replica *node
	sentinels       []*node
}

// Sentinel starts them and returns when every sentinel knows the replica and the others.
func Sentinel(t testing.TB) *Watch {
	t.Helper()
	return startSentinels(t, settings{})
}

func startSentinels(t testing.TB, with settings) *Watch {
	t.Helper()
	w := &Watch{t: t, with: with, master: startAlone(t, with)}
	w.replica = startAlone(t, with, "--replicaof", "127.0.0.1 "+w.master.port)
	poll(t, "the replica is in step", func() bool {
		return strings.Contains(w.replica.Admin(t, "INFO replication"), "master_link_status:up")
	})
	for range sentinels {
		w.sentinels = append(w.sentinels, startSentinel(t, w.master.port, with.tls))
	}
	known := fmt.Sprintf("slaves=1,sentinels=%d", sentinels)
	for _, s := range w.sentinels {
		poll(t, "the sentinels know each other", func() bool {
			return strings.Contains(s.Admin(t, "INFO sentinel"), known)
		})
	}
	return w
}

func startAlone(t testing.TB, with settings, args ...string) *node {
	t.Helper()
	n := &node{port: freePort(t)}
	n.Server = with.server(t, n.port, append(args, "--repl-diskless-sync-delay", "0")...)
	return n
}

// startSentinel writes the file that a sentinel needs, because it keeps its state there.
func startSentinel(t testing.TB, master string, tls *Secured) *node {
	t.Helper()
	n := &node{port: freePort(t)}
	n.Server = newServer(t, binaries()[0], nil, nil)
	t.Cleanup(n.remove)
	n.config = filepath.Join(n.dir, "sentinel.conf")
	lines := []string{
		"port " + n.port, "bind 127.0.0.1", "unixsocket " + n.socket(), "dir " + n.dir,
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %s %d", masterName, master, sentinels/2+1),
		"sentinel down-after-milliseconds " + masterName + " 500",
		"sentinel failover-timeout " + masterName + " 5000",
	}
	if tls != nil {
		lines[0] = "port 0"
		for _, line := range tls.lines(n.port) {
			lines = append(lines, line[0]+" "+line[1])
		}
		if n.password = tls.SentinelPassword; n.password != "" {
			lines = append(lines, "requirepass "+n.password)
		}
	}
	if err := os.WriteFile(n.config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	return n
}

// URL is what store.Open takes.
func (w *Watch) URL() string {
	var hosts []string
	for _, s := range w.sentinels {
		hosts = append(hosts, "127.0.0.1:"+s.port)
	}
	return w.with.scheme("redis-sentinel") + strings.Join(hosts, ",") + "/" + masterName
}

// Master is the server that is the master, as far as the test has made it so.
func (w *Watch) Master() *Server { return w.master.Server }

// Admin sends one command to the master and to the replica.
func (w *Watch) Admin(t testing.TB, command string) {
	t.Helper()
	w.master.Admin(t, command)
	w.replica.Admin(t, command)
}

// Kill ends the master with SIGKILL and returns when all sentinels name the other server.
func (w *Watch) Kill() {
	w.t.Helper()
	w.master.Kill()
	w.await()
}

// Failover is planned: the sentinels exchange master and replica.
func (w *Watch) Failover() {
	w.t.Helper()
	poll(w.t, "the sentinels fail over", func() bool { // a replica that was a master just now is not good yet
		_, err := w.sentinels[0].ask("SENTINEL FAILOVER " + masterName)
		return err == nil
	})
	w.await()
}

func (w *Watch) await() {
	w.t.Helper()
	for _, s := range w.sentinels {
		poll(w.t, "the sentinels name the new master", func() bool {
			return strings.Contains(s.Admin(w.t, "SENTINEL GET-MASTER-ADDR-BY-NAME "+masterName), w.replica.port)
		})
	}
	w.master, w.replica = w.replica, w.master
}
