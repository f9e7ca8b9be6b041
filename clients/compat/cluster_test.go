package compat

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const password = "p4ss-word"

// cluster is three real nodes with their engines.
type cluster struct {
	t      *testing.T
	binary string
	dir    string
	nodes  []*node
}

type node struct {
	name, clients, raft, sentinel string
	cmd                           *exec.Cmd // nil: it is not running
}

// startCluster returns when all have a vote.
func startCluster(t *testing.T) *cluster {
	binary := os.Getenv("HOLDFAST")
	if binary == "" {
		t.Fatal("HOLDFAST names the program to try; scripts/compat sets it")
	}
	c := &cluster{t: t, binary: binary, dir: t.TempDir()}
	if err := os.WriteFile(c.file("password"), []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			c.kill(n)
		}
	})
	for i := range 3 {
		n := &node{name: fmt.Sprint("n", i+1), clients: freeAddr(t), raft: freeAddr(t), sentinel: freeAddr(t)}
		c.nodes = append(c.nodes, n)
		c.start(n)
		if i == 0 {
			eventually(t, "the first node has made its secret", func() bool {
				b, err := os.ReadFile(c.secret())
				return err == nil && len(b) > 32
			})
		}
	}
	c.awaitVoters()
	return c
}

func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }
func (c *cluster) secret() string          { return c.file("n1/secret") }

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (c *cluster) start(n *node) {
	args := []string{"node", "--dir", c.file(n.name), "--name", n.name, "--listen", n.clients, "--raft", n.raft,
		"--sentinel", n.sentinel, "--password-file", c.file("password")}
	if first := c.nodes[0]; n != first {
		args = append(args, "--join", first.raft, "--secret-file", c.secret())
	}
	log, err := os.OpenFile(c.file(n.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = log.Close() }() // the process has its own
	n.cmd = exec.Command(c.binary, args...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if err := n.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
}

// kill ends a node by SIGKILL; its engine ends with it.
func (c *cluster) kill(n *node) {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill() // it may have ended
	_ = n.cmd.Wait()         // says that it was killed
	n.cmd = nil
}

// view is what a node says of the cluster.
type view struct {
	Leads bool `json:"leads"`
	Nodes []struct {
		Voter  bool `json:"voter"`
		Active bool `json:"active"`
		Leads  bool `json:"leader"`
	} `json:"nodes"`
}

func (c *cluster) view(n *node) (v view, ok bool) {
	if n.cmd == nil {
		return v, false
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, c.binary, "node", "status", "--json", "--node", n.raft, "--secret-file", c.secret()).Output()
	return v, err == nil && json.Unmarshal(out, &v) == nil
}

// leader is the node whose gate is open.
func (c *cluster) leader() (found *node) {
	c.t.Helper()
	eventually(c.t, "a leader", func() bool {
		for _, n := range c.nodes {
			if v, ok := c.view(n); ok && v.Leads {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// awaitVoters waits until all nodes are there and have a vote.
func (c *cluster) awaitVoters() {
	c.t.Helper()
	eventually(c.t, "all nodes have a vote and follow", func() bool {
		v, _ := c.view(c.leader())
		well := 0
		for _, n := range v.Nodes {
			if n.Voter && (n.Active || n.Leads) {
				well++
			}
		}
		return well == len(c.nodes)
	})
}

func (c *cluster) sentinels() string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.sentinel)
	}
	return strings.Join(all, ",")
}

// logs are for a test that has failed.
func (c *cluster) logs() {
	for _, n := range c.nodes {
		b, err := os.ReadFile(c.file(n.name + ".log"))
		c.t.Logf("%s: %v\n%s", n.name, err, b)
	}
}

// ask reads data past every client that is tried: an array of texts, one text or one number.
func (c *cluster) ask(words ...string) []string {
	c.t.Helper()
	var last error
	for _, n := range c.nodes {
		if n.cmd == nil {
			continue
		}
		var got []string
		if got, last = askAt(n.clients, words); last == nil {
			return got
		}
	}
	c.t.Fatalf("%v: %v", words, last)
	return nil
}

func askAt(addr string, words []string) ([]string, error) {
	conn, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	r := bufio.NewReader(conn)
	if _, err := fmt.Fprintf(conn, "AUTH %s\r\n%s\r\n", password, strings.Join(words, " ")); err != nil {
		return nil, err
	}
	if line, err := r.ReadString('\n'); err != nil || line != "+OK\r\n" {
		return nil, fmt.Errorf("AUTH: %q, %w", line, err)
	}
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(line[1:]))
	switch {
	case err == nil && line[0] == '$':
		text, err := text(r, n)
		return []string{text}, err
	case err != nil || line[0] != '*':
		return nil, fmt.Errorf("got %q", line)
	}
	all := make([]string, n)
	for i := range all {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, err := strconv.Atoi(strings.TrimSpace(line[1:]))
		if err != nil {
			return nil, err
		}
		if all[i], err = text(r, size); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func text(r *bufio.Reader, n int) (string, error) {
	b := make([]byte, n+2)
	_, err := io.ReadFull(r, b)
	return string(b[:n]), err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}
