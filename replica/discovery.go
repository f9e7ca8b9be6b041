package replica

import (
	"fmt"
	"net"

	"github.com/holdfast-dev/holdfast/replica/sentinel"
)

// announce decides what this node tells of where its sentinel is. Clients that ask a sentinel go
// where they are told, so an address that stands for all of a machine's is of no use to them.
func (n *Node) announce() error {
	if n.cfg.Sentinel == nil {
		n.self.Sentinel = n.cfg.AdvertiseSentinel
		return nil
	}
	n.self.Sentinel = orElse(n.cfg.AdvertiseSentinel, n.cfg.Sentinel.Addr().String())
	for _, a := range []struct{ what, addr string }{{"clients", n.self.Clients}, {"Sentinel's clients", n.self.Sentinel}} {
		host, _, err := net.SplitHostPort(a.addr)
		if err != nil {
			return fmt.Errorf("%w: the address for %s that others are told: %w", ErrConfig, a.what, err)
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			return fmt.Errorf("%w: say which address %s shall be told: %s is all of this machine's", ErrConfig, a.what, a.addr)
		}
	}
	return nil
}

// discover starts to answer clients that ask who leads.
func (n *Node) discover() {
	if n.cfg.Sentinel == nil {
		return
	}
	n.discovery = sentinel.New(sentinel.Config{Listener: n.cfg.Sentinel, Self: n.ident.ID,
		Name: orElse(n.cfg.SentinelName, DefaultSentinelName), Password: n.cfg.Password, Logger: n.log})
}

// tellMembers needs mu.
func (n *Node) tellMembers() {
	if n.discovery == nil {
		return
	}
	var all []sentinel.Member
	for _, m := range n.members {
		all = append(all, sentinel.Member{ID: m.ID, Clients: m.Clients, Sentinel: m.Sentinel, Voter: m.Voter})
	}
	n.discovery.SetMembers(all)
}

// tellLeader names who leads as soon as this node knows: the leader takes clients from then on, and has
// them wait until it can serve. It needs mu.
func (n *Node) tellLeader(term uint64) {
	if n.discovery != nil {
		n.discovery.SetLeader(n.leader, term)
	}
}
