package replica

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/holdfast-dev/holdfast/replica/gate"
)

// accept takes clients: a node that leads serves them, others pass them on to the leader.
func (n *Node) accept() {
	for {
		c, err := n.cfg.Clients.Accept()
		if err != nil {
			if n.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			n.log.Warn("cannot accept a client", "error", err)
			n.rest(100*time.Millisecond, nil)
			continue
		}
		if n.clients.Add(1) > n.maxClients.Load() {
			n.clients.Add(-1)
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = io.WriteString(c, tooMany) // it may have gone
			_ = c.Close()
			continue
		}
		n.wg.Add(1)
		go func() {
			defer n.wg.Done()
			defer n.clients.Add(-1)
			n.client(c)
		}()
	}
}

// maxClients is how many connections a node takes, whether it serves them or passes them on.
const (
	maxClients = 10_000
	tooMany    = "-ERR max number of clients reached\r\n"
)

// leaderWait is how long a client waits for a leader before it is told that there is none.
const leaderWait = 5 * time.Second

// noLeader is in the words of an engine that is not ready: clients know to come again.
const noLeader = "-LOADING holdfast: the cluster has no leader at the moment\r\n"

func (n *Node) client(c net.Conn) {
	ctx, cancel := context.WithTimeout(n.ctx, leaderWait)
	defer cancel()
	for {
		n.mu.Lock()
		s, leader, moved := n.session, n.leader, n.moved
		serves := s != nil && s.opened
		n.mu.Unlock()
		switch {
		case serves:
			if err := n.gate.Serve(c); !errors.Is(err, gate.ErrShut) {
				return
			}
			return
		case leader != 0 && leader != n.ident.ID:
			if n.tunnel(ctx, c, leader) {
				return
			}
		}
		select {
		case <-moved:
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			n.stats.leaderless.Inc()
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = io.WriteString(c, noLeader) // it may have gone
			_ = c.Close()
			return
		}
	}
}

// tunnel passes a client on to the leader; false: it was not reached, and nothing was passed.
func (n *Node) tunnel(ctx context.Context, c net.Conn, leader uint64) bool {
	addr := ""
	for _, m := range n.known() {
		if m.ID == leader {
			addr = m.Raft
		}
	}
	if addr == "" {
		return false
	}
	up, err := n.net.Dial(ctx, addr, "client")
	if err != nil {
		return false
	}
	both := pair{c, up}
	n.mu.Lock()
	late := n.leader != leader || n.ctx.Err() != nil
	if !late {
		n.tunnels[both] = struct{}{}
	}
	n.mu.Unlock()
	if late {
		_ = up.Close()
		return false
	}
	defer func() {
		n.mu.Lock()
		delete(n.tunnels, both)
		n.mu.Unlock()
		_ = both.Close()
	}()
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, err := io.Copy(c, up)
		if err != nil || !halfClose(c) {
			_ = both.Close()
		}
	}()
	if _, err := io.Copy(up, c); err != nil || !halfClose(up) {
		_ = both.Close()
	}
	<-back
	return true
}

func halfClose(c net.Conn) bool {
	h, ok := c.(interface{ CloseWrite() error })
	return ok && h.CloseWrite() == nil
}

// pair is the two ends of a tunnel.
type pair struct{ a, b net.Conn }

func (p pair) Close() error { return errors.Join(p.a.Close(), p.b.Close()) }

// closeTunnels ends what leads to a node that does not lead any more.
func (n *Node) closeTunnels() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for t := range n.tunnels {
		_ = t.Close()
	}
}
