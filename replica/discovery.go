package replica

import (
	"fmt"
	"net"

	"github.com/holdfast-dev/holdfast/replica/sentinel"
)

// announce decides what this node tells of where it is. Nodes and clients that ask a sentinel go
// where they are told, so an address that stands for all of a machine's is of no use to them.
func (n *Node) announce() error {
	told := []struct{ whom, addr, say string }{{"other nodes", n.self.Raft, "--raft-advertise"}}
	n.self.Sentinel = n.cfg.AdvertiseSentinel
	if n.cfg.Sentinel != nil {
		n.self.Sentinel = orElse(n.cfg.AdvertiseSentinel, n.cfg.Sentinel.Addr().String())
		told = append(told, []struct{ whom, addr, say string }{
			{"clients", n.self.Clients, "--advertise"}, {"Sentinel's clients", n.self.Sentinel, "--sentinel-advertise"}}...)
	}
	for _, a := range told {
		host, _, err := net.SplitHostPort(a.addr)
		if err != nil {
			return fmt.Errorf("%w: the address that %s are told (%s): %w", ErrConfig, a.whom, a.say, err)
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			return fmt.Errorf("%w: say with %s which address %s shall be told: %s is all of this machine's", ErrConfig, a.say, a.whom, a.addr)
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
