package replica_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dev/holdfast/replica"
)

// warnings keeps what is logged as a warning.
type warnings struct {
	slog.Handler
	mu   *sync.Mutex
	said *strings.Builder
}

func (warnings) Enabled(context.Context, slog.Level) bool { return true }

func (h warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Level != slog.LevelWarn {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		h.said.WriteString(" " + a.String())
		return true
	})
	h.said.WriteString("\n")
	return nil
}

func (h warnings) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.said.String()
}

// A node without the clients' password, or with another one, could lead, and everybody would be let in. It is not
// taken in, whomever it asks; a member that comes back with another password is, and the leader's log names it.
func TestOnePassword(t *testing.T) {
	password := "right"
	logged := warnings{slog.DiscardHandler, &sync.Mutex{}, &strings.Builder{}}
	w := newWorldWith(t, 2, func(c *replica.Config) { c.Password, c.Logger = password, slog.New(logged) })
	w.nodes = append(w.nodes, &member{name: "n3", dir: t.TempDir(), fs: w.nodes[0].fs})
	for _, c := range []struct{ password, says string }{{"", "has none"}, {"wrong", "has another one"}} {
		for asked := range 2 {
			password = c.password
			err := w.tryOpen(2, []string{w.nodes[asked].raft})
			if err == nil {
				t.Fatalf("a node with the password %q has joined", c.password)
			}
			if !errors.Is(err, replica.ErrJoin) || !errors.Is(err, replica.ErrPassword) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("with the password %q, of n%d: %v", c.password, asked+1, err)
			} else if strings.Count(err.Error(), "refused") != 1 {
				t.Errorf("it is refused more than once: %v", err)
			}
		}
	}
	if s := w.status(); len(s.Nodes) != 2 {
		t.Errorf("there are %d nodes", len(s.Nodes))
	}
	if said := logged.String(); strings.Contains(said, "another node has another password") || !strings.Contains(said, "a node may not join name=n3") {
		t.Errorf("logged: %s", said)
	}
	password = "right" // the refused one is as fresh as before
	w.open(2)
	w.eventually("three nodes", func() bool { return len(w.status().Nodes) == 3 && w.status().Leads })
	w.kill(2)
	password = "new"
	w.open(2)
	w.eventually("the leader says who differs", func() bool {
		return strings.Contains(logged.String(), "another node has another password for clients: all have to have the same, since each can lead node=n3")
	})
}
