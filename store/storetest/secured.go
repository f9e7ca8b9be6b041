package storetest

import "testing"

// Secured is how servers that take over for each other are to be reached: by TLS alone, also among
// themselves, with one certificate for all (of localhost and 127.0.0.1, its own authority).
type Secured struct {
	Cert, Key        string // files
	SentinelPassword string // that sentinels want from clients and from each other; empty: none
}

// Cluster is [Cluster] with TLS.
func (s Secured) Cluster(t testing.TB) *Shards {
	t.Helper()
	return startCluster(t, settings{tls: &s})
}

// Sentinel is [Sentinel] with TLS.
func (s Secured) Sentinel(t testing.TB) *Watch {
	t.Helper()
	return startSentinels(t, settings{tls: &s})
}

// settings are what all servers of one kind have in common.
type settings struct {
	env, args []string
	tls       *Secured
}

// scheme is a URL's, as users write it for TLS.
func (s settings) scheme(plain string) string {
	if s.tls == nil {
		return plain + "://"
	}
	return "rediss" + plain[len("redis"):] + "://"
}

// server starts one that listens on a port; with TLS on nothing else.
func (s settings) server(t testing.TB, port string, args ...string) *Server {
	t.Helper()
	all := []string{"--bind", "127.0.0.1", "--port", port}
	if s.tls != nil {
		all = []string{"--bind", "127.0.0.1", "--port", "0"}
		for _, line := range s.tls.lines(port) {
			all = append(all, "--"+line[0], line[1])
		}
	}
	all = append(append(all, args...), s.args...)
	return redisWith(t, s.env, all...)
}

// lines are of a server's configuration.
func (s *Secured) lines(port string) [][2]string {
	return [][2]string{
		{"tls-port", port}, {"tls-cert-file", s.Cert}, {"tls-key-file", s.Key}, {"tls-ca-cert-file", s.Cert},
		{"tls-auth-clients", "no"}, {"tls-replication", "yes"}, {"tls-cluster", "yes"},
	}
}
