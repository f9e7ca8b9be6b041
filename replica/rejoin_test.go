package replica_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
	"github.com/holdfast-dev/holdfast/replica/consensus"
)

// A node whose log is damaged in the middle refuses to start, and comes back from its peers.
func TestDamagedNodeRejoins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	s := w.storm()
	s.more(300)
	hurt := (w.leader() + 1) % 3
	w.kill(hurt)
	w.damageLog(hurt)
	err := w.tryOpen(hurt, nil)
	if !errors.Is(err, consensus.ErrDamaged) || !strings.Contains(err.Error(), w.nodes[hurt].dir) {
		t.Fatalf("on a damaged log it starts with %v", err)
	}
	a, err := replica.NewAdmin(secret)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	running := (hurt + 1) % 3
	if _, err := a.Rejoin(t.Context(), w.nodes[w.leader()].raft, w.nodes[running].dir); err == nil || !strings.Contains(err.Error(), "a node runs on") {
		t.Fatalf("the directory of a node that runs: %v", err)
	}
	aside, err := a.Rejoin(t.Context(), w.nodes[w.leader()].raft, w.nodes[hurt].dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(aside, "raft", "log")); err != nil {
		t.Errorf("what was there is not put aside: %v", err)
	}
	if err := w.tryOpen(hurt, []string{w.nodes[running].raft}); err != nil {
		t.Fatal(err)
	}
	w.eventually("it has a vote", func() bool {
		return slices.ContainsFunc(w.status().Nodes, func(n replica.NodeStatus) bool { return n.Name == w.nodes[hurt].name && n.Voter })
	})
	s.more(300)
	s.end()
	w.sameDigests()
}

// damageLog changes a byte in the first half of the log's largest file.
func (w *world) damageLog(i int) {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.nodes[i].dir, "raft", "log", "*.log"))
	if err != nil || len(files) == 0 {
		w.t.Fatal("it has no log", err)
	}
	slices.Sort(files)
	path := files[len(files)-1]
	b, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	at := bytes.Index(b, []byte("storm"))
	if at < 0 {
		w.t.Fatal("its log has nothing of the storm")
	}
	b[at] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// tryOpen starts a node and says how that ended.
func (w *world) tryOpen(i int, join []string) error {
	m := w.nodes[i]
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cfg := replica.Config{Dir: m.dir, Name: m.name, Secret: secret, FS: m.fs, Reserve: testReserve, Logger: w.logger(m),
		Clients: w.listen(&m.clients), Raft: w.listen(&m.raft), Join: join}
	if w.change != nil {
		w.change(&cfg)
	}
	n, err := replica.Open(ctx, cfg)
	if err == nil {
		m.Node = n
	}
	return err
}

// Who would leave no majority behind stays; the dead leave by their names.
func TestLeaveKeepsAMajority(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	a, err := replica.NewAdmin(secret)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	leader := w.leader()
	dead, alive := (leader+1)%3, (leader+2)%3
	ask := w.nodes[leader].raft
	w.kill(dead)
	w.eventually("its silence is seen", func() bool {
		return slices.ContainsFunc(w.status().Nodes, func(n replica.NodeStatus) bool { return n.Name == w.nodes[dead].name && !n.Active })
	})
	if err := a.Leave(t.Context(), ask, w.nodes[alive].name); err == nil || !strings.Contains(err.Error(), "only 1 of 2") {
		t.Fatalf("the living may leave, although the rest is no majority: %v", err)
	}
	if err := a.Leave(t.Context(), ask, w.nodes[leader].name); err == nil || !strings.Contains(err.Error(), "transfer") {
		t.Errorf("the leader: %v", err)
	}
	if err := a.Leave(t.Context(), ask, w.nodes[dead].name); err != nil {
		t.Fatal(err)
	}
	if got := len(w.status().Nodes); got != 2 {
		t.Fatalf("%d are left", got)
	}
	w.do("SET", "k", "v")
}
