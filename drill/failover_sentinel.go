package drill

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sentinels is what the same storm is let loose on to compare: an engine with replicas, appending to a file as most
// people have it, and a Sentinel beside each. Clients ask a Sentinel for the master, as their libraries do.
type sentinels struct {
	l      *nodeFleet
	engine string
	addrs  []string
}

const masterName = "drill"

func newSentinels(l *nodeFleet) (*sentinels, error) {
	o := &sentinels{l: l, engine: l.f.Engine}
	for _, name := range []string{"valkey-server", "redis-server"} {
		if path, err := exec.LookPath(name); err == nil && o.engine == "" {
			o.engine = path
		}
	}
	if o.engine == "" {
		return nil, errors.New("drill: neither valkey-server nor redis-server is installed")
	}
	for _, n := range l.nodes {
		addr := net.JoinHostPort(n.ip, "26379")
		if l.spaces == nil {
			var err error
			if addr, err = freeAddr(n.ip); err != nil {
				return nil, err
			}
		}
		o.addrs = append(o.addrs, addr)
	}
	return o, nil
}

// begin starts the set and waits until all of it knows itself.
func (o *sentinels) begin(ctx context.Context) error {
	for i, n := range o.l.nodes {
		if err := errors.Join(o.writeSentinel(i), os.Mkdir(filepath.Join(n.dir, "data"), 0o700)); err != nil {
			return err
		}
		if err := o.start(i); err != nil {
			return err
		}
	}
	if err := o.settled(ctx); err != nil {
		return err
	}
	return o.l.loadFunctions(ctx)
}

func (o *sentinels) writeSentinel(i int) error {
	first, n := o.l.nodes[0], o.l.nodes[i]
	host, port, _ := net.SplitHostPort(first.clients)
	_, mine, _ := net.SplitHostPort(o.addrs[i])
	lines := []string{
		"port " + mine, "bind " + n.ip, "protected-mode no", "dir " + n.dir,
		fmt.Sprintf("sentinel monitor %s %s %s %d", masterName, host, port, len(o.l.nodes)/2+1),
		"sentinel down-after-milliseconds " + masterName + " 500",
		"sentinel failover-timeout " + masterName + " 1000",
		"sentinel announce-ip " + n.ip,
	}
	return os.WriteFile(filepath.Join(n.dir, "sentinel.conf"), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// start runs an engine and the Sentinel beside it. All but the first begin as its replicas; later the Sentinels say.
func (o *sentinels) start(i int) (err error) {
	n, first := o.l.nodes[i], o.l.nodes[0]
	_, port, _ := net.SplitHostPort(n.clients)
	args := []string{"--port", port, "--bind", n.ip, "--bind-source-addr", n.ip, "--protected-mode", "no", "--dir", filepath.Join(n.dir, "data"),
		"--save", "", "--appendonly", "yes", "--appendfsync", "everysec"}
	if i > 0 && n.child == nil {
		host, port, _ := net.SplitHostPort(first.clients)
		args = append(args, "--replicaof", host+" "+port)
	}
	if n.child, err = o.l.launch(i, exec.Command(o.engine, args...), n.name+"-engine.log"); err != nil {
		return err
	}
	n.beside, err = o.l.launch(i, exec.Command(o.engine, filepath.Join(n.dir, "sentinel.conf"), "--sentinel"), n.name+"-sentinel.log")
	return err
}

// master is whom one Sentinel names.
func (o *sentinels) master(i int) (int, error) {
	c, err := dialRESP(o.addrs[i])
	if err != nil {
		return 0, err
	}
	defer c.Close()
	answer, err := c.do([]string{"SENTINEL", "get-master-addr-by-name", masterName})
	if err != nil {
		return 0, err
	}
	parts, _ := answer.([]any)
	if len(parts) != 2 {
		return 0, errors.New("the Sentinel knows no master")
	}
	addr := net.JoinHostPort(fmt.Sprint(parts[0]), fmt.Sprint(parts[1]))
	at := slices.IndexFunc(o.l.nodes, func(n *nodeProcess) bool { return n.clients == addr })
	if at < 0 {
		return 0, fmt.Errorf("the Sentinel names %s", addr)
	}
	return at, nil
}

// dial asks the at'th Sentinel, and connects with whom it names.
func (o *sentinels) dial(at int) (*respConn, error) {
	master, err := o.master(at % len(o.addrs))
	if err != nil {
		return nil, err
	}
	return dialRESP(o.l.nodes[master].clients)
}

// leader is whom most Sentinels name, if it says so too.
func (o *sentinels) leader(ctx context.Context) (int, error) {
	for end := time.Now().Add(2 * mending); time.Now().Before(end); {
		votes := map[int]int{}
		for i := range o.addrs {
			if m, err := o.master(i); err == nil {
				votes[m]++
			}
		}
		for m, n := range votes {
			if n > len(o.addrs)/2 && o.l.nodes[m].paused.Load() == nil && o.role(m) == "master" {
				return m, nil
			}
		}
		if !pauseFor(ctx, 50*time.Millisecond) {
			return 0, ctx.Err()
		}
	}
	return 0, errors.New("there is no master")
}

// role is what an engine says it is: master, or slave when its link is up.
func (o *sentinels) role(i int) string {
	c, err := dialRESP(o.l.nodes[i].clients)
	if err != nil {
		return ""
	}
	defer c.Close()
	answer, err := c.do([]string{"ROLE"})
	parts, _ := answer.([]any)
	switch {
	case err != nil || len(parts) < 3:
		return ""
	case parts[0] == "slave" && (len(parts) < 5 || parts[3] != "connected"):
		return "cut off"
	}
	return fmt.Sprint(parts[0])
}

// settled waits until all Sentinels name one master and all other engines follow it.
func (o *sentinels) settled(ctx context.Context) error {
	for end := time.Now().Add(2 * mending); time.Now().Before(end); {
		masters, named := 0, map[int]bool{}
		for i := range o.addrs {
			m, err := o.master(i)
			if err != nil {
				m = -1
			}
			named[m] = true
			switch o.role(i) {
			case "master":
				masters++
			case "slave":
			default:
				masters = -len(o.addrs)
			}
		}
		if masters == 1 && len(named) == 1 && !named[-1] {
			return nil
		}
		if !pauseFor(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
	return errors.New("the engines and their Sentinels did not agree")
}
