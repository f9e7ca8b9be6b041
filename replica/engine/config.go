package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// forbidden is what clients must not do: change whose replica the engine is, make it end,
// stop, write files, or give away what is not committed; see into other clients; change the
// rules that the node relies on.
var forbidden = []string{
	"replicaof", "slaveof", "failover", "psync", "sync", "replconf",
	"shutdown", "debug", "monitor", "migrate", "cluster", "module", "acl|setuser", "acl|deluser", "acl|load", "acl|save",
	"acl|getuser", "acl|list", "acl|log",
	"save", "bgsave", "bgrewriteaof", "config|set", "config|rewrite", "config|resetstat",
	"client|kill", "client|pause", "client|unpause", "client|no-evict", "pfdebug", "pfselftest",
	"script|debug", // which stops the engine between two steps
}

// wantedReplicas: an engine without one takes no writes. The one is its node.
const wantedReplicas = 1

// config is what the engine reads from its standard input.
func (e *Engine) config() string {
	clients := "nopass"
	if e.cfg.Password != "" {
		clients = "#" + hash(e.cfg.Password)
	}
	rules := []string{"user", "default", "reset", "on", clients, "~*", "&*", "+@all"}
	for _, name := range forbidden {
		rules = append(rules, "-"+name)
	}
	lines := []string{
		"port 0",
		fmt.Sprintf("unixsocket %q", e.socket),
		"unixsocketperm 700",
		"daemonize no",
		fmt.Sprintf("dir %q", e.cfg.Dir),
		"loglevel notice",
		"syslog-ident holdfast-node", // a mark that clients can ask for; nothing is logged there
		// What is committed is kept by the node; the engine keeps nothing.
		`save ""`,
		"appendonly no",
		"maxmemory-policy noeviction",
		// Its stream must not end because the node reads slowly, nor because it was away.
		fmt.Sprintf("repl-backlog-size %d", e.cfg.Backlog),
		"repl-backlog-ttl 0",
		"repl-timeout 3600",
		"client-output-buffer-limit replica 0 0 0",
		"client-output-buffer-limit normal 512mb 128mb 60",
		"repl-diskless-sync yes",
		"repl-diskless-sync-delay 0",
		"repl-diskless-load on-empty-db",
		"replica-serve-stale-data yes",
		"replica-read-only yes",
		// An engine whose node is gone takes no writes.
		fmt.Sprintf("min-replicas-to-write %d", wantedReplicas),
		"min-replicas-max-lag 10",
		"shutdown-timeout 0",
		"enable-debug-command yes",
		"maxclients 20000",
		strings.Join(rules, " "),
		fmt.Sprintf("user %s reset on #%s ~* &* +@all", nodeUser, hash(e.secret)),
	}
	return strings.Join(lines, "\n") + "\n"
}

func hash(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}
