package drill

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// namespaces give each node a network of its own, on one bridge. A direction is cut by telling the sender a wrong
// hardware address for the receiver: its packets reach nobody. They have no names: they go with the last process
// that is in them.
type namespaces struct {
	home *os.File
	own  []*os.File
	cut  map[[2]int]bool // those that are
	met  int64
	seen bool // that one of them is
}

const (
	netPrefix = "10.211.0."
	nobodyMAC = "02:00:00:00:00:99"
)

func nodeIP(i int) string  { return fmt.Sprint(netPrefix, 11+i) }
func nodeMAC(i int) string { return fmt.Sprintf("02:00:00:00:01:%02x", 11+i) }

// newNamespaces makes them inside the namespace that the drill is in, which nobody else uses.
func newNamespaces(nodes int) (_ *namespaces, err error) {
	ns := &namespaces{cut: map[[2]int]bool{}}
	if ns.home, err = os.Open("/proc/self/ns/net"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			ns.close()
		}
	}()
	if err := ip("link", "add", "drill0", "type", "bridge"); err != nil {
		return nil, err
	}
	if err := errors.Join(ip("addr", "add", netPrefix+"1/24", "dev", "drill0"), ip("link", "set", "drill0", "up")); err != nil {
		return nil, err
	}
	for i := range nodes {
		if err := ns.add(i, nodes); err != nil {
			return nil, err
		}
	}
	return ns, nil
}

func (ns *namespaces) add(i, nodes int) error {
	var own *os.File
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("a network namespace: %w", err)
		}
		own, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return err
	}
	ns.own = append(ns.own, own)
	near, far := fmt.Sprint("near", i), fmt.Sprint("far", i)
	err = errors.Join(
		ip("link", "add", near, "type", "veth", "peer", "name", far),
		ip("link", "set", near, "master", "drill0"), ip("link", "set", near, "up"),
		ip("link", "set", far, "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), own.Fd())))
	if err != nil {
		return err
	}
	return ns.in(i, func() error {
		err := errors.Join(ip("link", "set", "lo", "up"), ip("link", "set", far, "name", "eth0", "address", nodeMAC(i)),
			ip("addr", "add", nodeIP(i)+"/24", "dev", "eth0"), ip("link", "set", "eth0", "up"))
		for other := range nodes {
			if other != i {
				err = errors.Join(err, neighbour(other, nodeMAC(other)))
			}
		}
		return err
	})
}

func neighbour(of int, mac string) error {
	return ip("neigh", "replace", nodeIP(of), "lladdr", mac, "dev", "eth0", "nud", "permanent")
}

func ip(words ...string) error {
	if out, err := exec.Command("ip", words...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %v: %w: %s", words, err, out)
	}
	return nil
}

// onThread runs f on a thread that nothing else runs on afterwards.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: it ends with its namespace
		done <- f()
	}()
	return <-done
}

// in runs f, and what it starts, in a node's network.
func (ns *namespaces) in(i int, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.own[i].Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// enter is for the thread that starts nodes, and comes back.
func (ns *namespaces) enter(i int, f func() error) error {
	if err := unix.Setns(int(ns.own[i].Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	return errors.Join(f(), unix.Setns(int(ns.home.Fd()), unix.CLONE_NEWNET))
}

func (ns *namespaces) set(from, to int, cut bool) error {
	if ns.cut[[2]int{from, to}] == cut {
		return nil
	}
	mac := nodeMAC(to)
	switch {
	case cut:
		ns.seen = ns.seen && len(ns.cut) > 0
		ns.cut[[2]int{from, to}] = true
		mac = nobodyMAC
	default:
		if !ns.seen && !ns.reaches(from, to) {
			ns.seen = true
			ns.met++
		}
		delete(ns.cut, [2]int{from, to})
	}
	return ns.in(from, func() error { return neighbour(to, mac) })
}

// reaches asks for a connection to a port where nobody listens: who gets through is refused.
func (ns *namespaces) reaches(from, to int) bool {
	err := ns.in(from, func() error {
		c, err := net.DialTimeout("tcp", nodeIP(to)+":1", 50*time.Millisecond)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	return errors.Is(err, unix.ECONNREFUSED)
}

func (ns *namespaces) stuck() int64 { return ns.met }

// sever does nothing: what was lost on the way is sent again by the kernel.
func (ns *namespaces) sever() {}

func (ns *namespaces) close() {
	for i := range ns.own {
		_ = ip("link", "del", fmt.Sprint("near", i)) // all of it goes with the drill; the next one begins before
	}
	_ = ip("link", "del", "drill0")
	for _, f := range append(ns.own, ns.home) {
		_ = f.Close()
	}
}
