package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

func open(t *testing.T, url string, opts store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// refused opens and expects an error of that kind that says so.
func refused(t *testing.T, url string, want error, says string) {
	t.Helper()
	s, err := store.Open(t.Context(), url, store.Options{Timeout: time.Second})
	if err == nil {
		_ = s.Close()
		t.Fatalf("%s was opened", url)
	}
	if !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v; want %v and %q", url, err, want, says)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error repeats the password: %v", err)
	}
}

func TestPrefix(t *testing.T) {
	server := storetest.Redis(t)
	one := open(t, server.URL()+"?prefix=one:", store.Options{})
	two := open(t, server.URL()+"?prefix=two:", store.Options{})
	must(t, one, "{k}", "set", "1", "forever")
	must(t, two, "{k}", "set", "2", "forever")
	if a, b := must(t, one, "{k}", "get"), must(t, two, "{k}", "get"); a[0] != "1" || b[0] != "2" {
		t.Errorf("%s and %s", a, b)
	}
	if n := server.Admin(t, "EXISTS one:{k} two:{k}"); n != "2" {
		t.Errorf("the keys are not where they should be: %s", n)
	}
	heard := make(chan string, 10)
	cancel, err := one.Subscribe(t.Context(), "news", func(s string) { heard <- s })
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	must(t, two, "{k}", "notify", "from two")
	server.Admin(t, "PUBLISH news plain")
	must(t, one, "{k}", "notify", "from one")
	if got := receive(t, heard); got != "from one" {
		t.Errorf("heard %q", got)
	}
}

// A script is forgotten when the engine restarts or is told to; nobody notices.
func TestForgottenScripts(t *testing.T) {
	server := storetest.Redis(t)
	s := open(t, server.URL(), store.Options{})
	for i := range 20 {
		server.Admin(t, "SCRIPT FLUSH")
		if got := must(t, s, "{k}", "incr", "1"); got[0] != fmt.Sprint(i+1) {
			t.Fatalf("after flush %d: %s", i, got)
		}
	}
}

func TestDatabases(t *testing.T) {
	server := storetest.Redis(t)
	one, two := open(t, server.URL()+"?db=1", store.Options{}), open(t, server.URL()+"?db=2", store.Options{})
	must(t, one, "{k}", "set", "1", "forever")
	if got := must(t, two, "{k}", "get"); got[0] != none {
		t.Errorf("database 2 has %s", got)
	}
	refused(t, server.URL()+"?db=99", store.ErrConfig, "DB index")
}

func TestClassB(t *testing.T) {
	for _, c := range []struct {
		appendonly, fsync string
		rights, says      string // says: how it is refused
	}{
		{"yes", "always", "+@all", ""},
		{"yes", "everysec", "+@all", "appendfsync everysec"},
		{"no", "always", "+@all", "appendonly no"},
		{"no", "always", "+@all -config", "append-only file"},
		{"yes", "everysec", "+@all -config", ""}, // INFO does not tell; believed
		{"no", "no", "+@all -config -info", ""},  // nothing to be seen; believed
	} {
		server := storetest.Redis(t, "--appendonly", c.appendonly, "--appendfsync", c.fsync)
		server.Admin(t, "ACL SETUSER default "+c.rights)
		if c.says != "" {
			refused(t, server.URL()+"?class=b", store.ErrConfig, c.says)
			continue
		}
		if got := open(t, server.URL()+"?class=b", store.Options{}).Class(); got != store.ClassB {
			t.Errorf("%+v: class %s", c, got)
		}
		if got := open(t, server.URL(), store.Options{}).Class(); got != store.ClassC {
			t.Errorf("%+v: class %s without being stated", c, got)
		}
	}
}

func TestOpenRefusesWhatCannotDecide(t *testing.T) {
	t.Run("no scripts", func(t *testing.T) {
		server := storetest.Redis(t, "--rename-command", "EVAL", "", "--rename-command", "EVALSHA", "")
		refused(t, server.URL(), store.ErrConfig, "Lua")
	})
	t.Run("no right to scripts", func(t *testing.T) {
		server := storetest.Redis(t)
		server.Admin(t, "ACL SETUSER ann on nopass ~* &* +@all -@scripting")
		refused(t, strings.Replace(server.URL(), "unix:", "unix://ann:secret@", 1), store.ErrConfig, "Lua")
	})
	t.Run("keys of another prefix", func(t *testing.T) {
		server := storetest.Redis(t)
		server.Admin(t, "ACL SETUSER ann on nopass ~app:* &app:* +@all")
		refused(t, strings.Replace(server.URL(), "unix:", "unix://ann:secret@", 1)+"?prefix=other:", store.ErrConfig, "NOPERM")
	})
	t.Run("passwords", func(t *testing.T) {
		server := storetest.Redis(t, "--requirepass", "right-secret")
		refused(t, server.URL(), store.ErrConfig, "password")
		refused(t, strings.Replace(server.URL(), "unix:", "unix://:wrong-secret@", 1), store.ErrConfig, "password")
		open(t, strings.Replace(server.URL(), "unix:", "unix://:right-secret@", 1), store.Options{})
	})
	t.Run("cluster", func(t *testing.T) {
		server := storetest.Redis(t, "--cluster-enabled", "yes", "--port", freePort(t))
		refused(t, server.URL(), store.ErrConfig, "cluster node")
	})
	t.Run("nobody there", func(t *testing.T) {
		refused(t, "unix:/nonexistent/s.sock", store.ErrUnavailable, "no such file")
		refused(t, "redis://127.0.0.1:"+freePort(t), store.ErrUnavailable, "refused")
	})
	t.Run("context over", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := store.Open(ctx, storetest.Redis(t).URL(), store.Options{}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// freePort can lose its port to somebody else before it is used; then the server says so.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func TestCapabilities(t *testing.T) {
	server := storetest.Redis(t)
	if got := open(t, server.URL(), store.Options{}).Capabilities(); got != (store.Capabilities{Tracking: true}) {
		t.Errorf("plain: %+v", got)
	}
	server.Admin(t, "CONFIG SET maxmemory-policy allkeys-lru")
	if got := open(t, server.URL(), store.Options{}).Capabilities(); !got.Evicts {
		t.Errorf("allkeys-lru: %+v", got)
	}
	server.Admin(t, "ACL SETUSER default -info -client|tracking")
	if got := open(t, server.URL(), store.Options{}).Capabilities(); got != (store.Capabilities{Evicts: true}) {
		t.Errorf("by CONFIG: %+v", got)
	}
	server.Admin(t, "ACL SETUSER default -config")
	var log bytes.Buffer
	got := open(t, server.URL(), store.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}).Capabilities()
	if got.Evicts || !strings.Contains(log.String(), "evicts") {
		t.Errorf("nothing to be seen: %+v, log %q", got, log.String())
	}
	if got := open(t, "mem:", store.Options{}).Capabilities(); got != (store.Capabilities{}) {
		t.Errorf("mem: %+v", got)
	}
}

// documentedACL is the command in the package comment.
func documentedACL(t *testing.T) []string {
	t.Helper()
	source, err := os.ReadFile("remote.go")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?s)ACL SETUSER app.*?\n//\n`).FindString(string(source))
	if block == "" {
		t.Fatal("remote.go documents no ACL")
	}
	return strings.Fields(strings.ReplaceAll(strings.ReplaceAll(block, "//", ""), "SECRET", "s3cret"))
}

// The rights in the package comment are enough for everything, and none of them is idle.
func TestMinimalRights(t *testing.T) {
	server := storetest.Redis(t)
	acl := documentedACL(t)
	url := strings.Replace(server.URL(), "unix:", "unix://app:s3cret@", 1) + "?prefix=app:&db=1"
	server.Admin(t, strings.Join(acl, " "))
	conform(t, open(t, url, store.Options{}))
	for _, right := range acl {
		if !strings.HasPrefix(right, "+") || right == "+info" || right == "+unsubscribe" {
			continue // without them something is logged, or a connection made again
		}
		server.Admin(t, "SCRIPT FLUSH")
		server.Admin(t, strings.Join(slices.DeleteFunc(slices.Clone(acl), func(s string) bool { return s == right }), " "))
		if err := everything(t, url); err == nil {
			t.Errorf("%s is not needed", right)
		}
		server.Admin(t, "ACL DELUSER app")
	}
}

// everything uses each command that the rights name.
func everything(t *testing.T, url string) error {
	s, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Ping(t.Context()); err != nil {
		return err
	}
	if cancel, err := s.Subscribe(t.Context(), "c", func(string) {}); err != nil {
		return err
	} else {
		cancel()
	}
	if _, err := count.Do(t.Context(), s, countIn{"{n}", 1}); err != nil {
		return err
	}
	r := strings.NewReplacer("f", "1", "v", "1", "n", "1", "w", "1", "l", "1")
	for _, name := range append(slices.Clone(opNames), "notify") {
		for _, expiry := range []string{"keep", "forever", "1000000"} {
			var args []string
			for _, kind := range strings.Split(opArgs[name], "") {
				args = append(args, strings.Replace(r.Replace(kind), "e", expiry, 1))
			}
			if name == "notify" {
				args = []string{"x"}
			}
			// A type of its own for each operation, so that none meets a wrong one.
			if _, err := do(t, s, "{"+name+"}", name, args...); err != nil && !errors.Is(err, store.ErrWrongType) {
				return err
			}
		}
	}
	return nil
}

func TestEngineRefuses(t *testing.T) {
	t.Run("full", func(t *testing.T) {
		server := storetest.Redis(t)
		s := open(t, server.URL(), store.Options{})
		must(t, s, "{k}", "set", "before", "forever")
		server.Admin(t, "CONFIG SET maxmemory 1")
		if _, err := do(t, s, "{k}", "set", "after", "forever"); !errors.Is(err, store.ErrFull) {
			t.Errorf("got %v", err)
		}
		if _, err := count.Do(t.Context(), s, countIn{"{n}", 1}); !errors.Is(err, store.ErrFull) {
			t.Errorf("a command: got %v", err)
		}
		if got := must(t, s, "{k}", "get"); got[0] != "before" {
			t.Errorf("it was written: %s", got)
		}
		must(t, s, "{k}", "del")
	})
	t.Run("replica", func(t *testing.T) {
		server := storetest.Redis(t)
		s := open(t, server.URL(), store.Options{})
		server.Admin(t, "REPLICAOF 127.0.0.1 1")
		unavailable(t, s, "replica")
		server.Admin(t, "CONFIG SET replica-serve-stale-data no")
		unavailable(t, s, "primary")
		server.Admin(t, "REPLICAOF NO ONE")
		must(t, s, "{k}", "incr", "1")
	})
	t.Run("too few replicas", func(t *testing.T) {
		server := storetest.Redis(t)
		s := open(t, server.URL(), store.Options{})
		server.Admin(t, "CONFIG SET min-replicas-to-write 1")
		unavailable(t, s, "replicas")
	})
	t.Run("right taken away", func(t *testing.T) {
		server := storetest.Redis(t)
		s := open(t, server.URL(), store.Options{})
		server.Admin(t, "ACL SETUSER default -evalsha")
		unavailable(t, s, "right")
		server.Admin(t, "ACL SETUSER default +evalsha -incrby")
		if _, err := do(t, s, "{k}", "incr", "1"); !errors.Is(err, store.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "midway") {
			t.Errorf("within a script: %v", err)
		}
	})
	t.Run("busy", func(t *testing.T) {
		server := storetest.Redis(t, "--busy-reply-threshold", "10")
		s := open(t, server.URL(), store.Options{})
		conn, err := net.Dial("unix", strings.TrimPrefix(server.URL(), "unix:"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("EVAL \"while true do end\" 0\r\n")); err != nil {
			t.Fatal(err)
		}
		made, unknown := 0, 0 // before the script has begun, and as it does
		within(t, 5*time.Second, "it is busy", func() bool {
			_, err := do(t, s, "{k}", "incr", "1")
			if err == nil {
				made++
			} else if errors.Is(err, store.ErrOutcomeUnknown) {
				unknown++
			}
			return errors.Is(err, store.ErrUnavailable) && strings.Contains(err.Error(), "script")
		})
		server.Admin(t, "SCRIPT KILL")
		within(t, 5*time.Second, "it decides again", func() bool {
			_, err := do(t, s, "{k}", "type")
			return err == nil
		})
		got := must(t, s, "{k}", "int")
		if n, err := strconv.Atoi(got[0]); err != nil || n < made || n > made+unknown {
			t.Errorf("%v were made, %d were told so and %d were not told: a call that was told ErrUnavailable was made", got, made, unknown)
		}
	})
}

func unavailable(t *testing.T, s *store.Store, says string) {
	t.Helper()
	_, err := do(t, s, "{k}", "incr", "1")
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want ErrUnavailable and %q", err, says)
	}
}

func TestCloseRemote(t *testing.T) {
	server := storetest.Redis(t)
	s := open(t, server.URL(), store.Options{})
	if _, err := s.Subscribe(t.Context(), "c", func(string) {}); err != nil {
		t.Fatal(err)
	}
	must(t, s, "{k}", "incr", "1")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := do(t, s, "{k}", "incr", "1"); !errors.Is(err, store.ErrClosed) {
		t.Errorf("decision: %v", err)
	}
	if err := s.Ping(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("ping: %v", err)
	}
	if _, err := s.Subscribe(t.Context(), "c", func(string) {}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("subscribe: %v", err)
	}
	if n := server.Admin(t, "CLIENT LIST"); strings.Contains(n, "cmd=subscribe") {
		t.Errorf("connections are left: %s", n)
	}
}
