package sqldbtest

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// shared is the one server of this test binary, while somebody needs it.
var shared struct {
	sync.Mutex
	server *Server
	users  int  // tests that run on it
	kept   bool // Main ends it; otherwise the last user does
}

// Main runs the tests, ends the shared server and fails the run if a goroutine is left.
// Packages with more to end call Run.
func Main(m *testing.M) { os.Exit(Run(m.Run)) }

// Run is Main for those who exit themselves: it returns the exit status.
func Run(tests func() int) int {
	shared.kept = true
	code := tests()
	Stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "sqldbtest: goroutines are left:", err)
			code = 1
		}
	}
	return code
}

// Stop ends the shared server, if there is one.
func Stop() {
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil {
		shared.server.remove()
		shared.server = nil
	}
}

// Shared is the server that all tests of this binary share; nobody stops or kills it.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		shared.server = start(t, nil)
	}
	shared.users++
	t.Cleanup(func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.users--; shared.users == 0 && !shared.kept && shared.server != nil {
			shared.server.remove()
			shared.server = nil
		}
	})
	return shared.server
}

// Postgres starts a server for this test alone, which may kill and restart it.
// Settings are lines of postgresql.conf, such as "max_connections = 5".
func Postgres(t testing.TB, settings ...string) *Server {
	t.Helper()
	s := start(t, settings)
	t.Cleanup(s.remove)
	return s
}
