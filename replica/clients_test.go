package replica_test

import (
	"net"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/replica"
)

// A node that loses sight of its leader and finds the same one again keeps the clients that it passes on; with
// another leader they are cut off.
func TestTunnelsOutliveAMomentWithoutLeader(t *testing.T) {
	w := newWorld(t, 3)
	leader := w.leader()
	follower := (leader + 1) % 3
	var c *client
	w.eventually("a client is passed on", func() bool {
		var err error
		if c, err = w.dial(follower); err != nil {
			return false
		}
		_, err = c.do("SET", "k", "1")
		return err == nil
	})
	defer c.close()
	before, _ := w.nodes[follower].sample("leader_changes_total")
	w.eventually("it has forgotten its leader", func() bool {
		w.nodes[follower].ForgetLeader()
		now, _ := w.nodes[follower].sample("leader_changes_total")
		return now > before
	})
	if s := w.status(); s.Name != w.nodes[leader].name {
		t.Skip("another one leads: the machine is too slow for this")
	}
	if got, err := c.do("GET", "k"); err != nil || got != "1" {
		t.Errorf("%q, %v", got, err)
	}
	w.eventually("another one leads", func() bool {
		_ = w.nodes[leader].HandOver(t.Context())
		s := w.status()
		return s.Leads && s.Name != w.nodes[leader].name
	})
	w.eventually("it is cut off", func() bool { _, err := c.do("GET", "k"); return err != nil })
}

// One client more than there is place for is told so, whether the node serves it or passes it on.
func TestMaxClients(t *testing.T) {
	t.Parallel()
	const most = 5
	w := newWorldWith(t, 2, func(c *replica.Config) {})
	for i := range w.nodes {
		w.nodes[i].SetMaxClients(most)
	}
	for i := range w.nodes {
		var all []net.Conn
		w.eventually("they are all taken", func() bool { // what was there before may not have been counted off yet
			for _, c := range all {
				_ = c.Close()
			}
			all = nil
			for range most {
				c, err := w.dial(i)
				if err != nil {
					return false
				}
				all = append(all, c.conn)
				if _, err := c.do("PING"); err != nil {
					return false
				}
			}
			return true
		})
		c, err := w.dial(i)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.do("PING"); err == nil || !strings.Contains(err.Error(), "max number of clients") {
			t.Errorf("%s: one too many: %v", w.nodes[i].name, err)
		}
		c.close()
		_ = all[0].Close()
		w.eventually("there is a place again", func() bool {
			c, err := w.dial(i)
			if err != nil {
				return false
			}
			defer c.close()
			_, err = c.do("PING")
			return err == nil
		})
		for _, c := range all {
			_ = c.Close()
		}
	}
}
