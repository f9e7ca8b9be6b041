package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const holdfastNodes = 3

// Trio is three holdfast nodes of the test's own, each a process with an engine below it. They
// lose nothing that they have acknowledged while two of them are up.
type Trio struct {
	t       testing.TB
	program string
	dir     string
	env     []string
	nodes   [holdfastNodes]*process
}

// process is one node; it keeps its addresses and its directory over its deaths.
type process struct {
	name          string
	clients, raft string // addresses
	cmd           *exec.Cmd
	gone          chan struct{} // nil while it is down
}

// Nodes builds the program, which the build cache keeps, starts three nodes and returns when each
// has a vote and one leads. They end with the test.
func Nodes(t testing.TB) *Trio { return startNodes(t, nil) }

func startNodes(t testing.TB, env []string) *Trio {
	t.Helper()
	if len(binaries()) == 0 {
		missing(t, "neither valkey-server nor redis-server is installed")
	}
	dir, err := os.MkdirTemp("", "storetest")
	if err != nil {
		t.Fatal(err)
	}
	n := &Trio{t: t, program: program(t), dir: dir, env: env}
	t.Cleanup(n.remove)
	if err := os.WriteFile(n.secret(), []byte(strings.Repeat("0123456789abcdef", 2)), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range n.nodes {
		n.nodes[i] = &process{name: fmt.Sprint("n", i+1), clients: "127.0.0.1:" + freePort(t), raft: "127.0.0.1:" + freePort(t)}
		n.start(i)
	}
	poll(t, "every node has a vote", func() bool {
		voters := 0
		for _, v := range n.view(0).Nodes {
			if v.Voter {
				voters++
			}
		}
		return voters == holdfastNodes
	})
	return n
}

// URL is what store.Open takes.
func (n *Trio) URL() string {
	var all []string
	for _, p := range n.nodes {
		all = append(all, p.clients)
	}
	return "holdfast://" + strings.Join(all, ",")
}

// Leader is the node that says of itself that it leads, from 0.
func (n *Trio) Leader() (leader int) {
	n.t.Helper()
	poll(n.t, "a node leads", func() bool {
		for i, p := range n.nodes {
			if leader = i; p.gone != nil && n.view(i).Leads {
				return true
			}
		}
		return false
	})
	return leader
}

// Kill ends a node with SIGKILL, and its engine with it.
func (n *Trio) Kill(i int) {
	p := n.nodes[i]
	if p.gone == nil {
		return
	}
	_ = p.cmd.Process.Kill() // fails only if it has ended already
	<-p.gone
	p.gone = nil
}

// Restart starts a node that was killed, and returns when it serves clients, here or by the leader.
func (n *Trio) Restart(i int) {
	n.t.Helper()
	n.Kill(i)
	n.start(i)
}

// Admin sends one command to a node that is up, past the store that is under test. It is
// tried again while the nodes have no leader, so it must be one that may happen twice.
func (n *Trio) Admin(t testing.TB, command string) (reply string) {
	t.Helper()
	var err error
	poll(t, command, func() bool {
		for _, p := range n.nodes {
			if p.gone == nil {
				continue
			}
			if reply, err = ask("tcp", p.clients, "", command); err == nil {
				return true
			}
		}
		return false
	})
	return reply
}

func (n *Trio) secret() string { return filepath.Join(n.dir, "secret") }

func (n *Trio) start(i int) {
	n.t.Helper()
	p := n.nodes[i]
	ready := filepath.Join(n.dir, p.name+".ready")
	_ = os.Remove(ready) // of the time before, if there was one
	args := []string{"node", "--dir", filepath.Join(n.dir, p.name), "--name", p.name, "--listen", p.clients, "--raft", p.raft,
		"--secret-file", n.secret(), "--ready-file", ready, "--engine", binaries()[0]}
	if i > 0 {
		args = append(args, "--join", n.nodes[0].raft)
	}
	log, err := os.OpenFile(filepath.Join(n.dir, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command(n.program, args...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = log, log, append(os.Environ(), n.env...)
	dieWithParent(p.cmd)
	gone := make(chan struct{})
	if err := launch(p.cmd, gone); err != nil {
		n.t.Fatal(err)
	}
	p.gone = gone
	poll(n.t, p.name+" is ready", func() bool {
		select {
		case <-gone:
			text, _ := os.ReadFile(log.Name())
			n.t.Fatalf("%s ended at once\n%s", p.name, lastLines(string(text), 20))
		default:
		}
		text, err := os.ReadFile(ready)
		return err == nil && strings.HasSuffix(string(text), "\n")
	})
}

// nodeView is what a node says of the cluster.
type nodeView struct {
	Leads bool `json:"leads"`
	Nodes []struct {
		Voter bool `json:"voter"`
	} `json:"nodes"`
}

func (n *Trio) view(i int) (v nodeView) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, n.program, "node", "status", "--json", "--node", n.nodes[i].raft, "--secret-file", n.secret()).Output()
	if err != nil || json.Unmarshal(out, &v) != nil {
		return nodeView{} // it knows nothing yet
	}
	return v
}

func (n *Trio) remove() {
	for i, p := range n.nodes {
		if p != nil {
			n.Kill(i)
		}
	}
	_ = os.RemoveAll(n.dir)
}

const mainPackage = "github.com/holdfast-dev/holdfast/cmd/holdfast"

var built struct {
	sync.Mutex
	program string
}

// program is the binary as the go command keeps it in its cache, so that nobody has to take it
// away: `go run` shows its place. It is put there by the first run, from a place that goes.
func program(t testing.TB) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if built.program != "" {
		return built.program
	}
	for range 2 {
		out, err := exec.Command("go", "run", "-exec", "echo", mainPackage).Output()
		if err != nil {
			t.Fatalf("go run %s: %v", mainPackage, err)
		}
		path := strings.TrimSpace(string(out))
		if _, err := os.Stat(path); err == nil {
			built.program = path
			return path
		}
	}
	t.Fatal("the go command does not keep what it has built")
	return ""
}
