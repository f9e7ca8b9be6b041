package engine_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica/engine"
)

func start(t *testing.T, cfg engine.Config) *engine.Engine {
	t.Helper()
	need(t)
	cfg.Dir = t.TempDir()
	e, err := engine.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func need(t *testing.T) {
	t.Helper()
	for _, name := range []string{"valkey-server", "redis-server"} {
		if _, err := exec.LookPath(name); err == nil {
			return
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("neither valkey-server nor redis-server is installed; run scripts/deps")
	}
	t.Skip("neither valkey-server nor redis-server is installed")
}

// say sends inline commands as a client and returns the first line of each answer.
func say(t *testing.T, e *engine.Engine, lines ...string) (answers []string) {
	t.Helper()
	c, err := e.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	r := bufio.NewReader(c)
	for _, line := range lines {
		if _, err := fmt.Fprintf(c, "%s\r\n", line); err != nil {
			t.Fatal(err)
		}
		answer, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		answers = append(answers, strings.TrimSpace(answer))
	}
	return answers
}

func TestClientsCannotGoRoundTheNode(t *testing.T) {
	e := start(t, engine.Config{})
	for _, line := range []string{
		"REPLICAOF NO ONE", "SLAVEOF NO ONE", "FAILOVER", "PSYNC ? -1", "SYNC", "REPLCONF ACK 1",
		"SHUTDOWN NOSAVE", "DEBUG SLEEP 0", "DEBUG DIGEST", "MONITOR", "MIGRATE h 1 k 0 1", "CLUSTER INFO", "MODULE LIST",
		"SAVE", "BGSAVE", "BGREWRITEAOF", "CONFIG SET save x", "CONFIG REWRITE", "CLIENT KILL TYPE replica",
		"CLIENT PAUSE 1 ALL", "CLIENT NO-EVICT on", "ACL SETUSER x", "ACL DELUSER default", "ACL LIST", "SCRIPT DEBUG SYNC",
	} {
		if got := say(t, e, line)[0]; !strings.HasPrefix(got, "-NOPERM") {
			t.Errorf("%s: %s", line, got)
		}
	}
}

func TestClientsCanDoTheRest(t *testing.T) {
	e := start(t, engine.Config{})
	for _, line := range []string{
		"GET k", "SMEMBERS s", "EVAL return(1) 0", "XLEN x", "LLEN l", "SUBSCRIBE c", "CONFIG GET save", "INFO server",
		"SCRIPT EXISTS x", "WAIT 0 1", "CLIENT ID", "CLIENT SETNAME me", "ACL WHOAMI", "HELLO 3", "SELECT 3", "ROLE",
		"FUNCTION LIST", "MULTI", "PUBLISH c m", "DBSIZE", "KEYS *", "OBJECT HELP", "COMMAND COUNT", "TIME", "QUIT",
	} {
		if got := say(t, e, line)[0]; strings.HasPrefix(got, "-") {
			t.Errorf("%s: %s", line, got)
		}
	}
	if got := say(t, e, "SET k v")[0]; !strings.HasPrefix(got, "-NOREPLICAS") {
		t.Errorf("an engine without its node took a write: %s", got)
	}
}

func TestPassword(t *testing.T) {
	e := start(t, engine.Config{Password: "right horse"})
	got := say(t, e, "GET k", "AUTH wrong", `AUTH "right horse"`, "GET k", "AUTH holdfast x")
	for i, want := range []string{"-NOAUTH", "-WRONGPASS", "+OK", "$-1", "-WRONGPASS"} {
		if !strings.HasPrefix(got[i], want) {
			t.Errorf("answer %d is %s, not %s", i, got[i], want)
		}
	}
}

func TestStartErrors(t *testing.T) {
	need(t)
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name, path, words string
		want              error
	}{
		{"missing", filepath.Join(dir, "none"), "looked for", engine.ErrMissing},
		{"says nothing", script("silent", "exit 0"), "silent a valkey-server or redis-server?", engine.ErrStart},
		{"exits at once", script("exits", "echo out of luck; exit 1"), "out of luck", engine.ErrStart},
		{"evicts", script("evicts", `exec "$(command -v valkey-server || command -v redis-server)" "$@" --maxmemory-policy allkeys-lru`), "evict", engine.ErrSettings},
		{"saves", script("saves", `exec "$(command -v valkey-server || command -v redis-server)" "$@" --save "3600 1"`), "snapshots of its own", engine.ErrSettings},
		{"persists", script("persists", `exec "$(command -v valkey-server || command -v redis-server)" "$@" --appendonly yes`), "never have been committed", engine.ErrSettings},
		{"too old", script("old", "echo '*** FATAL CONFIG FILE ERROR (Redis 6.0.16) ***'; exit 1"), "6.0.16", engine.ErrVersion},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := engine.Start(t.Context(), engine.Config{Path: c.path, Dir: t.TempDir()})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestDeathIsSeen(t *testing.T) {
	e := start(t, engine.Config{})
	p, err := os.FindProcess(e.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-e.Exited():
	case <-time.After(5 * time.Second):
		t.Fatal("not seen")
	}
	if _, err := e.Do(t.Context(), "PING"); !errors.Is(err, engine.ErrGone) {
		t.Fatalf("got %v", err)
	}
}

// A unix socket's name is short; a directory's may be long.
func TestLongDirectory(t *testing.T) {
	need(t)
	e, err := engine.Start(t.Context(), engine.Config{Dir: filepath.Join(t.TempDir(), strings.Repeat("long", 30))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Do(t.Context(), "PING"); err != nil {
		t.Error(err)
	}
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
}
