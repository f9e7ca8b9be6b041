package store

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/valkey-io/valkey-go"
)

// The schemes of stores that are more than one engine.
const (
	schemeCluster  = "redis-cluster"
	schemeSentinel = "redis-sentinel"
	schemeNodes    = "holdfast" // nodes that lose nothing; each of them takes every client

	schemeClusterTLS  = "rediss-cluster"
	schemeSentinelTLS = "rediss-sentinel"
)

func several(scheme string) bool {
	switch scheme {
	case schemeCluster, schemeSentinel, schemeNodes, schemeClusterTLS, schemeSentinelTLS:
		return true
	}
	return false
}

func (a *address) cluster() bool { return len(a.several) > 0 && a.master == "" }

// splitHosts takes the list of hosts out of the URL of a cluster or of sentinels: net/url
// reads one host only. Of any other URL it changes nothing.
func splitHosts(raw string) (string, []string) {
	scheme, rest, found := strings.Cut(raw, "://")
	if !found || !several(scheme) {
		return raw, nil
	}
	from, end := 0, len(rest)
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		end = i
	}
	if i := strings.LastIndexByte(rest[:end], '@'); i >= 0 {
		from = i + 1
	}
	return scheme + "://" + rest[:from] + "hosts" + rest[end:], strings.Split(rest[from:end], ",")
}

// readSeveral takes redis-cluster://user:password@host:port,host:port,
// redis-sentinel://user:password@host:port,host:port/master, and
// holdfast://user:password@host:port,host:port/db.
func (a *address) readSeveral(u *url.URL, hosts []string) error {
	standard, path := "6379", strings.Trim(u.Path, "/")
	switch {
	case u.Scheme == schemeNodes:
		if path != "" {
			if err := a.readDB(path); err != nil {
				return err
			}
		}
	case u.Scheme == schemeSentinel, u.Scheme == schemeSentinelTLS:
		standard, a.master = "26379", path
		if a.master == "" {
			return fmt.Errorf("%w: name the master as the sentinels do: %s://host:port/master", ErrConfig, u.Scheme)
		}
	case path != "":
		return fmt.Errorf("%w: a cluster has one database and no /%s", ErrConfig, path)
	}
	for _, host := range hosts {
		one, err := url.Parse("redis://" + host)
		if err != nil || one.Hostname() == "" || one.Host != host {
			return fmt.Errorf("%w: write %s://host:port,host:port", ErrConfig, u.Scheme)
		}
		port := one.Port()
		if port == "" {
			port = standard
		}
		a.several = append(a.several, net.JoinHostPort(one.Hostname(), port))
	}
	a.network = "tcp"
	if u.Scheme == schemeClusterTLS || u.Scheme == schemeSentinelTLS {
		a.tls = &tls.Config{MinVersion: tls.VersionTLS12} // each server proves the name by which it is dialed
	}
	if u.Scheme == schemeNodes {
		a.nodes, a.several, a.class = a.several, nil, ClassA
	}
	return nil
}

// checkSeveral refuses what can never be true of several engines.
func (a *address) checkSeveral() error {
	if a.cluster() && a.db != 0 {
		return fmt.Errorf("%w: a cluster has one database", ErrConfig)
	}
	if len(a.nodes) > 0 && a.class != ClassA {
		return fmt.Errorf("%w: the class of nodes is a, and cannot be stated", ErrConfig)
	}
	if a.master == "" && (a.sentinelUser != "" || a.sentinelPassword != "") {
		return fmt.Errorf("%w: sentinel_username and sentinel_password are for the URL of sentinels", ErrConfig)
	}
	if a.master != "" && a.class == ClassB {
		return fmt.Errorf("%w: class=b is stated, but after a failover by sentinels the last writes may be lost", ErrConfig)
	}
	return nil
}

// severalOptions changes the client's options from one engine to many.
func (a *address) severalOptions(o *valkey.ClientOption) {
	if len(a.several) == 0 {
		return
	}
	o.InitAddress, o.ForceSingleClient = a.several, false
	if a.master != "" {
		// A message of the sentinels can be missed, so they are asked as well.
		o.Sentinel = valkey.SentinelOption{
			MasterSet: a.master, TopologyRefreshInterval: time.Second,
			Username: a.sentinelUser, Password: a.sentinelPassword,
		}
		return
	}
	o.PipelineMultiplex = 0 // one connection to each node
	o.TLSConfig = a.tls     // dial does it; this says which of a node's ports it is
	o.ClusterOption.MaxMovedRedirections = maxRedirections
}

const maxRedirections = 8

// onTheMove sends again while the keys of a decision are on two nodes: the engine has refused
// it as a whole, and the next moment they are on one.
func onTheMove(ctx context.Context, send func(context.Context) valkey.ValkeyResult) valkey.ValkeyResult {
	for pause := firstRetry; ; pause = min(2*pause, lastMove) {
		result := send(ctx)
		answer, ok := valkey.IsValkeyErr(result.Error())
		if !ok || !answer.IsTryAgain() {
			return result
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return result
		}
	}
}

const lastMove = 50 * time.Millisecond

// probeNodes looks for what contradicts a stated class B, on every node: a replica takes over
// without the last writes, and a master can be without the settings that the others have.
func (r *remote) probeNodes(ctx context.Context) error {
	if r.at.class != ClassB {
		return nil
	}
	nodes := r.client.Nodes()
	for addr, node := range nodes {
		ask := &remote{at: r.at, client: node, log: r.log}
		if seen := ask.info(ctx, "replication"); seen["role"] == "slave" || seen["connected_slaves"] != "" && seen["connected_slaves"] != "0" {
			return fmt.Errorf("%w: class=b is stated, but %s has or is a replica, which may take over without the last writes", ErrConfig, addr)
		}
	}
	for addr, node := range nodes {
		ask := &remote{at: r.at, client: node, log: r.log}
		if err := ask.probeClass(ctx); err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
	}
	return nil
}

// nodeMark is what the engines of holdfast nodes say of themselves (their syslog-ident). An engine
// that anybody else runs keeps less than the class promises.
const nodeMark = "holdfast-node"

func (r *remote) probeMark(ctx context.Context) error {
	if len(r.at.nodes) == 0 {
		return nil
	}
	if got := r.setting(ctx, "syslog-ident"); got != nodeMark {
		return fmt.Errorf("%w: what answers is not a holdfast node; the URL of an engine begins with redis://", ErrConfig)
	}
	return nil
}

// dialNodes connects to the first node that can be reached, beginning with another one each time: one
// that was frozen is left behind.
func (r *remote) dialNodes(ctx context.Context, d *net.Dialer) (conn net.Conn, err error) {
	begin := r.turn.Add(1)
	for i := range uint64(len(r.at.nodes)) {
		node := r.at.nodes[(begin+i)%uint64(len(r.at.nodes))]
		if conn, err = d.DialContext(ctx, "tcp", node); err == nil {
			return conn, nil
		}
	}
	return nil, err
}
