package replica_test

import (
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

// A node that was taken out while it ran, and one that was while it was down, learn it from the others, say it and end.
func TestTakenOutIsTold(t *testing.T) {
	said := map[string]*logs{}
	w := newWorldWith(t, 3, func(c *replica.Config) {
		said[c.Name] = &logs{}
		c.Logger = slog.New(slog.NewTextHandler(said[c.Name], nil))
	})
	a, err := replica.NewAdmin(secret)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	leader := w.leader()
	out, stays := (leader+1)%3, (leader+2)%3
	told := func() {
		t.Helper()
		m := w.nodes[out]
		select {
		case <-m.Failed():
		case <-time.After(30 * time.Second):
			t.Fatalf("%s is never told:\n%s", m.name, strings.Join(said[m.name].lines(), "\n"))
		}
		if err := m.Err(); !errors.Is(err, replica.ErrTakenOut) {
			t.Errorf("it ends with %v", err)
		}
		text := strings.Join(said[m.name].lines(), "\n")
		if strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "node rejoin") {
			t.Errorf("it says\n%s", text)
		}
		ops := &replica.Ops{}
		ops.Set(m.Node, "")
		r := httptest.NewRecorder()
		ops.ServeHTTP(r, httptest.NewRequest("GET", "/readyz", nil))
		if r.Code != 503 || !strings.Contains(r.Body.String(), "taken out") {
			t.Errorf("/readyz: %d %s", r.Code, r.Body.String())
		}
	}
	if err := a.Leave(t.Context(), w.nodes[leader].raft, w.nodes[out].name); err != nil {
		t.Fatal(err)
	}
	told()
	w.kill(out)
	w.open(out) // its log may not have the removal: the others have
	told()
	for _, i := range []int{leader, stays} {
		if err := w.nodes[i].Err(); err != nil {
			t.Errorf("%s, which stays: %v", w.nodes[i].name, err)
		}
	}
	w.do("SET", "k", "v")
}
