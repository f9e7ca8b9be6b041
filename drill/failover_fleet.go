package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// nodeFleet is the nodes as processes, each behind a proxy for the other nodes.
type nodeFleet struct {
	f      *failover
	secret string // file
	nodes  []*nodeProcess
	links  *links
}

type nodeProcess struct {
	name          string
	ip            string
	clients, raft string // addresses
	child         *child
	paused        *int // pid
}

func newNodeFleet(ctx context.Context, f *failover) (_ *nodeFleet, err error) {
	l := &nodeFleet{f: f, secret: filepath.Join(f.place.dir, "secret")}
	if err := os.WriteFile(l.secret, []byte(strings.Repeat("0123456789abcdef", 4)), 0o600); err != nil {
		return nil, fmt.Errorf("drill: %w", err)
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for i := range f.Nodes {
		n := &nodeProcess{name: fmt.Sprint("n", i+1), ip: fmt.Sprint("127.0.0.", 11+i)}
		if n.clients, err = freeAddr(n.ip); err != nil {
			return nil, fmt.Errorf("drill: this machine has no address %s on its loopback: %w", n.ip, err)
		}
		if n.raft, err = freeAddr(n.ip); err != nil {
			return nil, err
		}
		l.nodes = append(l.nodes, n)
	}
	if l.links, err = newLinks(l.nodes); err != nil {
		return nil, err
	}
	for i := range l.nodes {
		if err := l.start(i, true); err != nil {
			return nil, err
		}
	}
	return l, l.awaitVoters(ctx)
}

// freeAddr finds a port that is free now; the node listens there each time it is started.
func freeAddr(ip string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// start runs a node and, if told so, waits until it serves clients.
func (l *nodeFleet) start(i int, wait bool) error {
	n := l.nodes[i]
	ready := filepath.Join(l.f.place.dir, n.name+".ready")
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("drill: %w", err)
	}
	args := []string{"node", "--dir", filepath.Join(l.f.place.dir, n.name), "--name", n.name, "--listen", n.clients,
		"--raft", n.raft, "--raft-advertise", l.links.addr(i), "--secret-file", l.secret, "--ready-file", ready}
	if l.f.Engine != "" {
		args = append(args, "--engine", l.f.Engine)
	}
	if i > 0 {
		args = append(args, "--join", l.links.addr(0))
	}
	var err error
	if n.child, err = l.f.nursery.start(l.f.Binary, filepath.Join(l.f.place.dir, n.name+".log"), args...); err != nil {
		return err
	}
	if wait {
		_, err = n.child.ready(ready, readyWithin)
	}
	return err
}

func (l *nodeFleet) close() {
	for _, n := range l.nodes {
		n.resume()
		if n.child != nil {
			n.child.kill()
		}
	}
	if l.links != nil {
		l.links.close()
	}
}

// nodeView is what a node says; used to find the leader, never for a verdict.
type nodeView struct {
	Leader string `json:"leader"`
	Leads  bool   `json:"leads"`
	Nodes  []struct {
		Voter bool `json:"voter"`
	} `json:"nodes"`
}

func (l *nodeFleet) view(ctx context.Context, i int) (v nodeView, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, l.f.Binary, "node", "status", "--json", "--node", l.nodes[i].raft, "--secret-file", l.secret).Output()
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(out, &v)
}

// leader is the node that says of itself that it leads.
func (l *nodeFleet) leader(ctx context.Context) (int, error) {
	for end := time.Now().Add(mending); time.Now().Before(end); {
		for i, n := range l.nodes {
			if n.paused != nil {
				continue // it would answer when it goes on
			}
			if v, err := l.view(ctx, i); err == nil && v.Leads {
				return i, nil
			}
		}
		if !pauseFor(ctx, 20*time.Millisecond) {
			return 0, ctx.Err()
		}
	}
	return 0, errors.New("there is no leader")
}

func (l *nodeFleet) awaitVoters(ctx context.Context) error {
	for end := time.Now().Add(mending); time.Now().Before(end); {
		voters := 0
		if v, err := l.view(ctx, 0); err == nil {
			for _, n := range v.Nodes {
				if n.Voter {
					voters++
				}
			}
		}
		if voters == len(l.nodes) {
			return nil
		}
		if !pauseFor(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	return errors.New("drill: the nodes did not become a cluster")
}

// verify has the engines compared, once they are at one offset.
func (l *nodeFleet) verify(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, mending)
	defer cancel()
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, l.f.Binary, "node", "verify", "--json", "--node", l.nodes[0].raft, "--secret-file", l.secret)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var told struct {
		Digests map[string]string `json:"digests"`
	}
	if bad := json.Unmarshal(out, &told); bad != nil {
		return nil, fmt.Errorf("%w: %s", errors.Join(err, bad), errs.String())
	}
	first := ""
	for name, digest := range told.Digests {
		if first == "" {
			first = digest
		}
		if digest != first {
			return told.Digests, fmt.Errorf("the engine of %s differs: %v", name, told.Digests)
		}
	}
	return told.Digests, nil
}

// engine is the process that a node has started.
func (n *nodeProcess) engine() (int, error) {
	if n.child == nil {
		return 0, errors.New("the node does not run")
	}
	parent := strconv.Itoa(n.child.cmd.Process.Pid)
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// pid (name) state ppid …; the name may hold anything
		rest := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(rest) > 1 && rest[1] == parent && rest[0] != "Z" {
			return pid, nil
		}
	}
	return 0, errors.New("the node has no engine")
}
