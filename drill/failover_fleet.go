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
	"sync/atomic"
	"time"
)

// nodeFleet is the nodes as processes, and what connects them. Beside holdfast nodes it can be the engines and
// sentinels of the other set, whose hooks stand in for what differs.
type nodeFleet struct {
	f      *failover
	secret string // file
	nodes  []*nodeProcess
	net    network
	spaces *namespaces // nil: proxies
	others *sentinels  // nil: holdfast nodes
}

type nodeProcess struct {
	name          string
	dir           string // its disk
	ip            string
	clients, raft string // addresses
	advertise     string // raft, as others reach it
	skew          string // file: its engine's clock; empty: it is right
	child         *child
	disk          *diskWatch          // nil: its syncs are not watched
	beside        *child              // its sentinel
	paused        atomic.Pointer[int] // pid
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
	if err := l.connect(); err != nil {
		return nil, err
	}
	if f.sentinels {
		if l.others, err = newSentinels(l); err != nil {
			return nil, err
		}
		return l, l.others.begin(ctx)
	}
	for i := range l.nodes {
		if err := l.start(i, true); err != nil {
			return nil, err
		}
	}
	if err := l.awaitVoters(ctx); err != nil {
		return nil, err
	}
	return l, l.loadFunctions(ctx)
}

// connect makes the network, and the nodes' places on it and on the disk.
func (l *nodeFleet) connect() (err error) {
	for i := range l.f.Nodes {
		name := fmt.Sprint("n", i+1)
		n := &nodeProcess{name: name, dir: filepath.Join(l.f.place.disk(), name), ip: fmt.Sprint("127.0.0.", 11+i)}
		if l.f.skew != "" {
			n.skew = filepath.Join(l.f.place.dir, name+".skew")
			if err := setSkew(n.skew, 0); err != nil {
				return err
			}
		}
		if err := os.Mkdir(n.dir, 0o700); err != nil {
			return fmt.Errorf("drill: %w", err)
		}
		if l.f.noDisk == "" {
			if err := smallDisk(n.dir); err != nil {
				return err
			}
			l.f.place.undo = append(l.f.place.undo, func(context.Context) error { return leaveDisk(n.dir) })
		}
		l.nodes = append(l.nodes, n)
	}
	if l.f.Net == netNamespaces {
		return l.connectSpaces()
	}
	for _, n := range l.nodes {
		if n.clients, err = freeAddr(n.ip); err != nil {
			return fmt.Errorf("drill: this machine has no address %s on its loopback: %w", n.ip, err)
		}
		if n.raft, err = freeAddr(n.ip); err != nil {
			return err
		}
	}
	proxies, err := newLinks(l.nodes)
	if err != nil {
		return err
	}
	l.net = proxies
	for i, n := range l.nodes {
		n.advertise = proxies.addr(i)
	}
	return nil
}

func (l *nodeFleet) connectSpaces() (err error) {
	if l.spaces, err = newNamespaces(len(l.nodes)); err != nil {
		return err
	}
	l.net = l.spaces
	for i, n := range l.nodes {
		n.ip = nodeIP(i)
		n.clients, n.raft = net.JoinHostPort(n.ip, "6379"), net.JoinHostPort(n.ip, "7379")
		n.advertise = n.raft
	}
	return nil
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
	if l.others != nil {
		return l.others.start(i)
	}
	n := l.nodes[i]
	ready := filepath.Join(l.f.place.dir, n.name+".ready")
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("drill: %w", err)
	}
	args := []string{"node", "--dir", filepath.Join(n.dir, "data"), "--name", n.name, "--listen", n.clients, "--allow-no-password",
		"--raft", n.raft, "--raft-advertise", n.advertise, "--secret-file", l.secret, "--ready-file", ready}
	if l.f.Engine != "" {
		args = append(args, "--engine", l.f.Engine)
	}
	if i > 0 {
		args = append(args, "--join", l.nodes[0].advertise)
	}
	cmd := exec.Command(l.f.Binary, args...)
	if n.skew != "" {
		cmd.Env = append(os.Environ(), "LD_PRELOAD="+l.f.skew, "HOLDFAST_DRILL_SKEW="+n.skew)
	}
	var err error
	if n.disk = nil; l.f.noWatch == "" {
		if n.disk, err = watch(cmd, l.f.Binary); err != nil {
			return err
		}
	}
	if n.child, err = l.launch(i, cmd, n.name+".log"); err != nil {
		return err
	}
	if n.disk != nil {
		if err := n.disk.begin(); err != nil {
			return fmt.Errorf("drill: watching the disk of %s: %w\n%s", n.name, err, tail(n.child.log))
		}
	}
	if wait {
		_, err = n.child.ready(ready, readyWithin)
	}
	return err
}

// launch starts a process in a node's network.
func (l *nodeFleet) launch(i int, cmd *exec.Cmd, log string) (*child, error) {
	log = filepath.Join(l.f.place.dir, log)
	if l.spaces == nil {
		return l.f.nursery.run(cmd, log)
	}
	return l.f.nursery.runIn(cmd, log, func(start func() error) error { return l.spaces.enter(i, start) })
}

// kill ends a node with SIGKILL, and says whether it was alive.
func (n *nodeProcess) kill() bool {
	if n.child == nil {
		return false
	}
	alive := n.child.kill()
	if n.disk != nil {
		n.disk.end()
		n.disk = nil
	}
	if n.beside != nil {
		n.beside.kill()
	}
	return alive
}

func (l *nodeFleet) close() {
	for _, n := range l.nodes {
		n.resume()
		n.kill()
	}
	if l.net != nil {
		l.net.close()
	}
}

// resume lets go on what was stopped, if it is still there.
func (n *nodeProcess) resume() {
	if pid := n.paused.Swap(nil); pid != nil {
		_ = continuePid(*pid) // the node may have ended an engine that stood still
	}
}

// dial connects a client: with the at'th node, whoever leads.
func (l *nodeFleet) dial(at int) (*respConn, error) {
	if l.others != nil {
		return l.others.dial(at)
	}
	return dialRESP(l.nodes[at%len(l.nodes)].clients)
}

// transfer asks a node to hand leadership to another one.
func (l *nodeFleet) transfer(ctx context.Context, leader int) error {
	out, err := exec.CommandContext(ctx, l.f.Binary, "node", "transfer", "--node", l.nodes[leader].raft, "--secret-file", l.secret).CombinedOutput()
	if err != nil {
		return errors.New(string(out))
	}
	return nil
}

// The function does what pairScript does. It is loaded once: from then on it has to be there.
const pairFunction = "#!lua name=drill\nredis.register_function('drill_pair', function(KEYS) " + pairScript + " end)"

func (l *nodeFleet) loadFunctions(ctx context.Context) (last error) {
	for end := time.Now().Add(mending); time.Now().Before(end); {
		var c *respConn
		if c, last = l.dial(0); last == nil {
			_, last = c.do([]string{"FUNCTION", "LOAD", "REPLACE", pairFunction})
			_ = c.Close()
		}
		if last == nil {
			return nil
		}
		if !pauseFor(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("drill: loading a function: %w", last)
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
	if l.others != nil {
		return l.others.leader(ctx)
	}
	for end := time.Now().Add(mending); time.Now().Before(end); {
		for i, n := range l.nodes {
			if n.paused.Load() != nil {
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
		Missing map[string]string `json:"missing"`
	}
	if bad := json.Unmarshal(out, &told); bad != nil {
		return nil, fmt.Errorf("%w: %s", errors.Join(err, bad), errs.String())
	}
	if len(told.Missing) > 0 {
		return told.Digests, fmt.Errorf("drill: not all engines were compared: %v", told.Missing)
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
	if n.beside != nil {
		return n.child.cmd.Process.Pid, nil // it is the engine
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
		if fields := processStat(pid); len(fields) > 1 && fields[1] == parent && fields[0] != "Z" {
			return pid, nil
		}
	}
	return 0, errors.New("the node has no engine")
}

// processStat is what the kernel says of a process behind its name: state, parent, …
func processStat(pid int) []string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
}

func processState(pid int) (state string, there bool) {
	fields := processStat(pid)
	if len(fields) == 0 {
		return "", false
	}
	return fields[0], true
}
