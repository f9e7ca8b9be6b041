package drill

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// harmed is a store that this run has started, and so may harm. Hit says whether there was
// something to harm; the store answers again when a method returns.
type harmed interface {
	killed(ctx context.Context) (hit bool, err error)
	standStill(ctx context.Context) (hit bool, err error)
	// dial connects to it as a client, over whatever way is left.
	dial() (*respConn, error)
}

// ownNodes is what --store is for three nodes.
const ownNodes = "nodes"

// nodeStore is three holdfast nodes as the store of a sale: class A.
type nodeStore struct{ *nodeFleet }

// hireNodes starts them. Their directories are in the run's own, so that a failure keeps them.
func (h *hired) hireNodes(ctx context.Context) error {
	h.progress.say("starting three nodes")
	f := &failover{FailoverOptions: FailoverOptions{Nodes: 3, Binary: h.binary, Net: netProxies}, place: h.place, nursery: h.nursery, progress: h.progress,
		noDisk: "this drill's own", noWatch: "this drill's own"}
	fleet, err := newNodeFleet(ctx, f)
	if err != nil {
		return err
	}
	h.place.undo = append(h.place.undo, func(context.Context) error { fleet.close(); return nil })
	var all []string
	for _, node := range fleet.nodes {
		all = append(all, node.clients)
	}
	h.storing, h.place.store = &nodeStore{fleet}, schemeNodes+strings.Join(all, ",")
	return nil
}

// dial finds a node that takes clients; one that stands still takes none.
func (s *nodeStore) dial() (*respConn, error) {
	var failed []error
	for _, n := range s.nodes {
		if n.paused.Load() != nil {
			continue
		}
		c, err := dialRESP(n.clients)
		if err == nil {
			return c, nil
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}

// lastWords is how long before its death nobody hears a leader: what it answered alone is then
// nowhere else.
const lastWords = 100 * time.Millisecond

// killed kills the node that leads, and its engine with it, and starts it again at once. In its
// last moments it does not reach the others.
func (s *nodeStore) killed(ctx context.Context) (hit bool, err error) {
	leader, err := s.leader(ctx)
	if err != nil {
		return false, err
	}
	if err := s.cutOff([]int{leader}, true, false, true); err != nil {
		return false, err
	}
	wait(ctx, lastWords)
	hit = s.nodes[leader].kill()
	s.net.sever() // with all that it has said meanwhile
	if err := errors.Join(s.cutOff([]int{leader}, true, false, false), ctx.Err()); err != nil {
		return hit, err
	}
	if err := s.start(leader, true); err != nil {
		return hit, err
	}
	return hit, s.answers(ctx)
}

// standStill stops the node that leads; hit says whether it was silent meanwhile.
func (s *nodeStore) standStill(ctx context.Context) (hit bool, err error) {
	leader, err := s.leader(ctx)
	if err != nil {
		return false, err
	}
	over := time.Now().Add(down)
	frozen, err := s.frozen(leader, false)
	if err != nil {
		return false, err
	}
	hit = !speaks(s.nodes[leader].clients, down/10)
	wait(ctx, time.Until(over))
	if err := frozen.mend(ctx); err != nil {
		return hit, err
	}
	return hit, s.answers(ctx)
}

// speaks says whether a node answers a client in time.
func speaks(addr string, within time.Duration) bool {
	c, err := net.DialTimeout("tcp", addr, within)
	if err != nil {
		return false
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return false
	}
	_, err = c.Write([]byte("PING\r\n"))
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	return err == nil
}

// answers waits until the nodes do what they are asked.
func (s *nodeStore) answers(ctx context.Context) error {
	var last error
	for end := time.Now().Add(engineWithin); time.Now().Before(end) && ctx.Err() == nil; wait(ctx, 5*time.Millisecond) {
		if _, last = tellOnce(s.dial, "PING"); last == nil {
			return nil
		}
	}
	return fmt.Errorf("drill: the nodes do not answer: %w", errors.Join(last, ctx.Err()))
}

// tellOnce sends one command on a connection of its own.
func tellOnce(dial func() (*respConn, error), words ...string) (any, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.do(words)
}

const schemeNodes = "holdfast://"

// oneOf turns the URL of nodes into that of the first of them that answers, as of a Redis.
func oneOf(raw string) (string, error) {
	rest, isNodes := strings.CutPrefix(raw, schemeNodes)
	if !isNodes {
		return raw, nil
	}
	hosts, query, _ := strings.Cut(rest, "?")
	user := ""
	if i := strings.LastIndexByte(hosts, '@'); i >= 0 {
		user, hosts = hosts[:i+1], hosts[i+1:]
	}
	hosts, db, _ := strings.Cut(hosts, "/")
	for _, host := range strings.Split(hosts, ",") {
		if speaks(host, commandTime) {
			one := "redis://" + user + host
			if db != "" {
				one += "/" + db
			}
			return strings.TrimSuffix(one+"?"+query, "?"), nil
		}
	}
	return "", errors.New("drill: no node of the store answers")
}

// withPrefix puts a prefix behind the one that a store's URL has.
func withPrefix(raw, prefix string) (string, error) {
	base, query, _ := strings.Cut(raw, "?")
	q, err := url.ParseQuery(query)
	if err != nil {
		return "", errors.New("drill: the store's URL cannot be parsed")
	}
	q.Set("prefix", q.Get("prefix")+prefix)
	return base + "?" + q.Encode(), nil
}
