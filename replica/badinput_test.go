package replica_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

// What is no command is answered by the engine, or ends its own connection; nobody else notices,
// at the leader or behind another node.
func TestGarbage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	leader := w.leader()
	for _, node := range []int{leader, (leader + 1) % 3} {
		other, err := w.dial(node)
		if err != nil {
			t.Fatal(err)
		}
		for _, garbage := range []string{
			"\x00\x01\x02\xff\xfe garbage\r\n", "*999999999\r\n", "*1\r\n$-5\r\n", "*1\r\n$99999999999999\r\n", "*2\r\n$3\r\nGET\r\n:1\r\n",
			"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\r\n\r\n\r\n",
			"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nhalf", strings.Repeat("x", 100<<10),
		} {
			c, err := net.Dial("tcp", w.nodes[node].clients)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(c, garbage) // it may be cut off before its end
			_ = c.(*net.TCPConn).CloseWrite()
			answer, err := io.ReadAll(c)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("%.20q keeps its connection", garbage)
			}
			if len(answer) > 0 && answer[0] != '-' {
				t.Errorf("%.20q is answered %.40q", garbage, answer)
			}
			_ = c.Close()
			if got, err := other.do("PING"); err != nil || got != "+PONG" {
				t.Fatalf("after %.20q another client hears %q, %v", garbage, got, err)
			}
		}
		if got, err := other.do("EXISTS", "k"); err != nil || got != ":0" {
			t.Errorf("half a command was done: %q, %v", got, err)
		}
		other.close()
	}
	if now := w.leader(); now != leader {
		t.Error("another node leads")
	}
}

// What would go round the node is refused: said plainly, in a transaction, and in a script.
func TestForbidden(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	pid := w.status().Engine.Pid
	for _, line := range []string{
		"REPLICAOF NO ONE", "SLAVEOF NO ONE", "FAILOVER", "SHUTDOWN NOSAVE", "PSYNC ? -1", "SYNC", "REPLCONF ACK 1", "DEBUG SLEEP 0", "DEBUG RELOAD",
		"MIGRATE 127.0.0.1 1 k 0 1", "MONITOR", "SAVE", "BGSAVE", "BGREWRITEAOF", "MODULE LIST", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1",
		"CLIENT UNPAUSE", "CLIENT NO-EVICT on", "CONFIG SET maxmemory 1", "CONFIG SET min-replicas-to-write 0", "CONFIG REWRITE", "CONFIG RESETSTAT",
		"ACL SETUSER x on", "ACL SETUSER default +@all", "ACL DELUSER default", "ACL LOAD", "ACL SAVE", "ACL LIST", "CLUSTER RESET", "SCRIPT DEBUG SYNC",
	} {
		words := strings.Fields(line)
		script := "return redis.call('" + strings.Join(words, "','") + "')"
		for how, conversation := range map[string][][]string{
			"plainly":          {words},
			"in a transaction": {{"MULTI"}, words, {"EXEC"}},
			"in a script":      {{"EVAL", script, "0"}},
		} {
			c, err := w.dial(0)
			if err != nil {
				t.Fatal(err)
			}
			var last error
			for _, words := range conversation {
				_, last = c.do(words...)
				if how == "in a transaction" && words[0] != "MULTI" && words[0] != "EXEC" && last == nil {
					t.Errorf("%s %s is queued", line, how)
				}
			}
			c.close()
			if want := map[string]string{"plainly": "-NOPERM", "in a transaction": "-EXECABORT", "in a script": "-"}[how]; last == nil || !strings.HasPrefix(last.Error(), want) {
				t.Errorf("%s %s: %v", line, how, last)
			}
		}
	}
	if s := w.status(); !s.Leads || s.Engine.Pid != pid || s.Engine.Role != "master" {
		t.Errorf("something was done: %+v", s.Engine)
	}
	if got := w.do("SET", "k", "v"); got != "+OK" {
		t.Error(got)
	}
}

// Wrong passwords are refused by every node, also for the node's own user.
func TestWrongPasswords(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, 2, func(c *replica.Config) { c.Password = "right" })
	for i := range w.nodes {
		c, err := w.dial(i)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct{ words, want string }{
			{"GET k", "-NOAUTH"}, {"AUTH wrong", "-WRONGPASS"}, {"AUTH holdfast right", "-WRONGPASS"}, {"AUTH feed right", "-WRONGPASS"},
			{"HELLO 3 AUTH default wrong", "-WRONGPASS"}, {"SET k v", "-NOAUTH"}, {"AUTH right", "+OK"}, {"SET k v", "+OK"},
		} {
			got, err := c.do(strings.Fields(step.words)...)
			if err != nil {
				got = err.Error()
			}
			if !strings.HasPrefix(got, step.want) {
				t.Errorf("node %d: %s: %s", i, step.words, got)
			}
		}
		c.close()
	}
}

// A directory that contradicts what it is started with is refused with the reason.
func TestWrongDirectories(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.do("SET", "k", "v")
	w.kill(0)
	file := filepath.Join(w.nodes[0].dir, "node.json")
	right, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, says string }{
		{"a newer format", strings.Replace(string(right), `"format": 1`, `"format": 2`, 1), "format 2"},
		{"no JSON", "{", "node.json"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.tryOpen(0, nil); !errors.Is(err, replica.ErrConfig) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := os.WriteFile(file, right, 0o600); err != nil {
		t.Fatal(err)
	}
	w.open(0)
	if got := w.do("GET", "k"); got != "v" {
		t.Error(got)
	}
}

// A node of one cluster is no node of another one that has the same secret.
func TestAnotherCluster(t *testing.T) {
	t.Parallel()
	a, b := newWorld(t, 1), newWorld(t, 1)
	admin, err := replica.NewAdmin(secret)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	b.kill(0)
	if _, err := admin.Rejoin(t.Context(), a.nodes[0].raft, b.nodes[0].dir); !errors.Is(err, replica.ErrConfig) || !strings.Contains(err.Error(), "belongs to cluster") {
		t.Errorf("its directory is prepared for another cluster: %v", err)
	}
	if err := b.tryOpen(0, []string{a.nodes[0].raft}); err != nil {
		t.Fatal(err)
	}
	b.leader()
	if got := len(a.status().Nodes); got != 1 {
		t.Errorf("the cluster has %d nodes", got)
	}
}
