package bench

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

var binaries = flag.String("holdfast", "", "binaries of holdfast to measure as nodes, with commas between; otherwise this repository's")

// holdfasts are the binaries to measure.
func holdfasts(t *testing.T) []string {
	t.Helper()
	if *binaries != "" {
		return strings.Split(*binaries, ",")
	}
	path := filepath.Join(t.TempDir(), "holdfast")
	build := exec.Command("go", "build", "-o", path, "./cmd/holdfast")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return []string{path}
}

// process runs a program until it is killed, at the latest with the test.
type process struct {
	cmd  *exec.Cmd
	gone chan struct{}
}

func start(t *testing.T, log, path string, args ...string) *process {
	t.Helper()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	p := &process{cmd: exec.Command(path, args...), gone: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the kernel takes the thread for the parent
		defer close(p.gone)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // it was killed
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.gone
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// redisTrio starts a primary and two replicas and returns the primary's address.
func redisTrio(t *testing.T, args ...string) string {
	t.Helper()
	primary := ""
	for i := range 3 {
		addr, dir := freeAddress(t), t.TempDir()
		host, port, _ := strings.Cut(addr, ":")
		all := append([]string{"--bind", host, "--port", port, "--dir", dir, "--save", "", "--repl-diskless-sync-delay", "0"}, args...)
		if i == 0 {
			primary = addr
		} else {
			host, port, _ := strings.Cut(primary, ":")
			all = append(all, "--replicaof", host+" "+port)
		}
		start(t, filepath.Join(dir, "log"), "redis-server", all...)
		eventually(t, "redis-server answers", func() bool { return tell(addr, "PING") == "+PONG" })
	}
	eventually(t, "two replicas follow", func() bool { return tell(primary, "WAIT", "2", "100") == ":2" })
	return primary
}

// tell gives the first line of a server's answer; empty when there is none.
func tell(addr string, words ...string) string {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return ""
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write(command(words...)); err != nil {
		return ""
	}
	text, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimSpace(text)
}

// nodeFleet is three nodes on one machine.
type nodeFleet struct {
	binary, dir string
	secret      string
	nodes       []*node
	admin       *replica.Admin
}

type node struct {
	name, clients, raft string
	process             *process
}

func startNodes(t *testing.T, binary string) *nodeFleet {
	t.Helper()
	f := &nodeFleet{binary: binary, dir: t.TempDir(), secret: strings.Repeat("0123456789abcdef", 4)}
	if err := os.WriteFile(filepath.Join(f.dir, "secret"), []byte(f.secret), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.admin, err = replica.NewAdmin([]byte(f.secret)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.admin.Close() })
	for i := range 3 {
		f.nodes = append(f.nodes, &node{name: fmt.Sprint("n", i+1), clients: freeAddress(t), raft: freeAddress(t)})
		f.start(t, i)
	}
	f.await(t)
	return f
}

func (f *nodeFleet) start(t *testing.T, i int) {
	t.Helper()
	n := f.nodes[i]
	args := []string{"node", "--dir", filepath.Join(f.dir, n.name), "--name", n.name, "--listen", n.clients, "--raft", n.raft,
		"--secret-file", filepath.Join(f.dir, "secret")}
	if i > 0 {
		args = append(args, "--join", f.nodes[0].raft)
	}
	n.process = start(t, filepath.Join(f.dir, n.name+".log"), f.binary, args...)
	eventually(t, "the node answers", func() bool { return f.status(n).Name == n.name })
}

func (f *nodeFleet) status(n *node) (s replica.Status) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s, _ = f.admin.Status(ctx, n.raft) // empty when it does not answer
	return s
}

// await waits until all nodes have a vote and the whole log.
func (f *nodeFleet) await(t *testing.T) {
	t.Helper()
	eventually(t, "all nodes are well", func() bool {
		s := f.status(f.leader(t))
		well := 0
		for _, n := range s.Nodes {
			if n.Voter && n.Match+1000 >= s.Log.Last {
				well++
			}
		}
		return well == len(f.nodes) && f.fed()
	})
}

// fed: every engine follows closely, or leads.
func (f *nodeFleet) fed() bool {
	for _, n := range f.nodes {
		if s := f.status(n); s.Step != "rest" && !s.Leads {
			return false
		}
	}
	return true
}

func (f *nodeFleet) leader(t *testing.T) (found *node) {
	t.Helper()
	eventually(t, "a node leads", func() bool {
		for _, n := range f.nodes {
			if f.status(n).Leads {
				found = n
				return true
			}
		}
		return false
	})
	return found
}
