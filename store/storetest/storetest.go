// Package storetest runs tests on every engine that package store has, and shows that a
// decision's two bodies do the same.
//
//   - [Each] runs a test on mem:, on file: and on each server that is installed.
//   - [Redis] starts a server of the test's own, to be killed and started again.
//   - [Cluster] and [Sentinel] start several that take over for each other, [Nodes] three nodes
//     of ours, to be killed.
//   - [Diff] makes random decisions on an embedded store and on a server under one clock and
//     demands equal answers and equal state, [DiffSeveral] on those that are several;
//     [DiffFinds] shows that it would notice an error.
//
// Servers are child processes on unix sockets in directories of their own; they end with the
// test, by their process id. An engine that is not installed skips the test with a reason, and
// fails it where CI=true.
package storetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

// Each runs fn as a subtest on every engine: "mem", "file", and "redis" or "valkey" or both,
// as installed. With STORETEST_SEVERAL=1 also on "cluster", "sentinel" and "nodes", whose many
// processes take seconds to start for each test. The store is empty and is closed after fn.
func Each(t *testing.T, fn func(t *testing.T, s *store.Store)) {
	t.Helper()
	t.Run("mem", func(t *testing.T) { fn(t, open(t, "mem:", store.Options{})) })
	t.Run("file", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "storetest") // not t.TempDir: its name may hold what a URL may not
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		fn(t, open(t, "file:"+dir, store.Options{}))
	})
	found := binaries()
	if len(found) == 0 {
		t.Run("redis", func(t *testing.T) { missing(t, "neither valkey-server nor redis-server is installed") })
	}
	for _, binary := range found {
		t.Run(engineName(binary), func(t *testing.T) {
			fn(t, open(t, share(t, binary).URL()+"?prefix="+freshPrefix(), store.Options{}))
		})
	}
	if os.Getenv("STORETEST_SEVERAL") == "1" {
		eachSeveral(t, fn)
	}
	if url := os.Getenv("STORETEST_URL"); url != "" { // one that somebody else has started
		t.Run("given", func(t *testing.T) { fn(t, open(t, url+"?prefix="+freshPrefix(), store.Options{})) })
	}
}

func eachSeveral(t *testing.T, fn func(t *testing.T, s *store.Store)) {
	t.Run("cluster", func(t *testing.T) { fn(t, open(t, Cluster(t).URL()+"?prefix="+freshPrefix(), store.Options{})) })
	t.Run("sentinel", func(t *testing.T) { fn(t, open(t, Sentinel(t).URL()+"?prefix="+freshPrefix(), store.Options{})) })
	t.Run("nodes", func(t *testing.T) { fn(t, open(t, Nodes(t).URL()+"?prefix="+freshPrefix(), store.Options{})) })
}

func engineName(binary string) string {
	if filepath.Base(binary) == "valkey-server" {
		return "valkey"
	}
	return "redis"
}

func open(t testing.TB, url string, opts store.Options) *store.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := store.Open(ctx, url, opts)
	if err != nil {
		t.Fatalf("open %s: %v", url, err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close %s: %v", url, err)
		}
	})
	return s
}

var prefixes atomic.Int64

// freshPrefix keeps tests on a shared server apart.
func freshPrefix() string { return fmt.Sprintf("t%d:", prefixes.Add(1)) }

// shared holds the servers that tests share, with the number of tests that use each. The
// last one ends it: a test binary has no later moment of its own for that.
var shared = struct {
	sync.Mutex
	servers map[string]*Server
	users   map[string]int
}{servers: map[string]*Server{}, users: map[string]int{}}

func share(t testing.TB, binary string) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	s := shared.servers[binary]
	if s == nil {
		s = newServer(t, binary, nil, nil)
		s.start(t)
		shared.servers[binary] = s
	}
	shared.users[binary]++
	t.Cleanup(func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.users[binary]--; shared.users[binary] == 0 {
			s.remove()
			delete(shared.servers, binary)
		}
	})
	return s
}
