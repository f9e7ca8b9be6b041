package store

import (
	"context"
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
)

func (a *address) cluster() bool { return len(a.several) > 0 && a.master == "" }

// splitHosts takes the list of hosts out of the URL of a cluster or of sentinels: net/url
// reads one host only. Of any other URL it changes nothing.
func splitHosts(raw string) (string, []string) {
	scheme, rest, found := strings.Cut(raw, "://")
	if !found || scheme != schemeCluster && scheme != schemeSentinel {
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

// readSeveral takes redis-cluster://user:password@host:port,host:port and
// redis-sentinel://user:password@host:port,host:port/master.
func (a *address) readSeveral(u *url.URL, hosts []string) error {
	standard, path := "6379", strings.Trim(u.Path, "/")
	if u.Scheme == schemeSentinel {
		standard, a.master = "26379", path
		if a.master == "" {
			return fmt.Errorf("%w: name the master as the sentinels do: %s://host:port/master", ErrConfig, u.Scheme)
		}
	} else if path != "" {
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
	return nil
}

// checkSeveral refuses what can never be true of several engines.
func (a *address) checkSeveral() error {
	if a.cluster() && a.db != 0 {
		return fmt.Errorf("%w: a cluster has one database", ErrConfig)
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
		o.Sentinel = valkey.SentinelOption{MasterSet: a.master, TopologyRefreshInterval: time.Second}
		return
	}
	o.PipelineMultiplex = 0 // one connection to each node
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
