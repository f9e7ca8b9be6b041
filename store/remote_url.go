package store

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// address is what the URL of a remote engine says.
type address struct {
	network  string   // "tcp" or "unix"
	host     string   // host:port, or the socket's path; empty for a cluster or sentinels
	several  []string // nodes of the cluster, or the sentinels, as host:port
	nodes    []string // holdfast nodes, as host:port; each of them takes every client
	master   string   // what the sentinels call the master; empty for a cluster
	tls      *tls.Config
	user     string
	password string
	db       int

	sentinelUser, sentinelPassword string

	prefix string
	class  Class // ClassA of nodes; ClassB when the URL states it
}

const maxPrefix = 64

// parseRemote reads redis://, rediss:// and unix: URLs. Its errors never repeat the URL,
// which can hold a password.
func parseRemote(raw string) (address, error) {
	raw, hosts := splitHosts(raw)
	u, err := url.Parse(raw)
	if err != nil {
		return address{}, fmt.Errorf("%w: the store's URL cannot be parsed (special characters in a user name or password must be percent-encoded)", ErrConfig)
	}
	if u.Fragment != "" {
		return address{}, fmt.Errorf("%w: the store's URL has a #fragment, which means nothing here", ErrConfig)
	}
	a := address{class: ClassC}
	if u.User != nil {
		a.user = u.User.Username()
		a.password, _ = u.User.Password()
	}
	switch u.Scheme {
	case "unix":
		err = a.readSocket(u)
	case schemeCluster, schemeSentinel, schemeNodes, schemeClusterTLS, schemeSentinelTLS:
		err = a.readSeveral(u, hosts)
	default:
		err = a.readHost(u)
	}
	if err == nil {
		err = a.readQuery(u.RawQuery)
	}
	if err == nil {
		err = a.checkSeveral()
	}
	return a, err
}

// readSocket takes unix:/path, unix:relative/path and unix://user:password@/path.
func (a *address) readSocket(u *url.URL) error {
	path := u.Path
	if u.Opaque != "" {
		var err error
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			return fmt.Errorf("%w: the socket's path is not properly percent-encoded", ErrConfig)
		}
	}
	if u.Host != "" {
		return fmt.Errorf("%w: a unix: URL has no host; write unix:/path/to/socket", ErrConfig)
	}
	if path == "" || path == "/" {
		return fmt.Errorf("%w: a unix: URL names a socket: unix:/path/to/socket", ErrConfig)
	}
	a.network, a.host = "unix", path
	return nil
}

// readHost takes redis://user:password@host:port/db, and the same with rediss for TLS.
func (a *address) readHost(u *url.URL) error {
	if u.Opaque != "" || u.Hostname() == "" {
		return fmt.Errorf("%w: write %s://host:port", ErrConfig, u.Scheme)
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	a.network, a.host = "tcp", net.JoinHostPort(u.Hostname(), port)
	if u.Scheme == "rediss" {
		a.tls = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	}
	if db := strings.Trim(u.Path, "/"); db != "" {
		return a.readDB(db)
	}
	return nil
}

func (a *address) readDB(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return fmt.Errorf("%w: database %q is not a number of 0 or more", ErrConfig, s)
	}
	a.db = n
	return nil
}

// readQuery refuses what it does not know: a mistyped prefix would mix two users' keys.
func (a *address) readQuery(raw string) error {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return fmt.Errorf("%w: the query of the store's URL is not properly percent-encoded", ErrConfig)
	}
	for name, values := range query {
		if len(values) != 1 {
			return fmt.Errorf("%w: %q is given %d times", ErrConfig, name, len(values))
		}
		switch value := values[0]; name {
		case "db":
			err = a.readDB(value)
		case "prefix":
			err = a.readPrefix(value)
		case "class":
			err = a.readClass(value)
		case "sentinel_username":
			a.sentinelUser = value
		case "sentinel_password":
			a.sentinelPassword = value
		default:
			err = fmt.Errorf("%w: unknown parameter %q; there are db, prefix, class, sentinel_username and sentinel_password", ErrConfig, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readPrefix refuses braces: a key's first pair of them names its slot, and a prefix that
// brought a pair of its own would put every key into one slot.
func (a *address) readPrefix(s string) error {
	if strings.ContainsAny(s, "{}") {
		return fmt.Errorf("%w: the prefix may not contain braces, they choose the slot", ErrConfig)
	}
	if len(s) > maxPrefix {
		return fmt.Errorf("%w: the prefix is longer than %d bytes", ErrConfig, maxPrefix)
	}
	a.prefix = s
	return nil
}

func (a *address) readClass(s string) error {
	switch strings.ToLower(s) {
	case "b":
		a.class = ClassB
	case "c":
		a.class = ClassC
	default:
		return fmt.Errorf("%w: class %q cannot be stated; a remote engine is c, or b with appendfsync always and no failover", ErrConfig, s)
	}
	return nil
}
