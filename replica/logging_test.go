package replica_test

import (
	"context"
	"log/slog"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

// slowLog is a log whose reader has stopped reading when a message comes.
type slowLog struct {
	slog.Handler
	message string
	stuck   *atomic.Int32
	goOn    chan struct{}
}

func (l slowLog) Enabled(context.Context, slog.Level) bool { return true }

func (l slowLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message == l.message {
		l.stuck.Add(1)
		<-l.goOn
	}
	return nil
}

// A log that nobody reads holds up who writes it, and not who waits for the same lock.
func TestNobodyWaitsForTheLog(t *testing.T) {
	t.Parallel()
	l := slowLog{slog.DiscardHandler, "epoch begins", &atomic.Int32{}, make(chan struct{})}
	w := &world{t: t}
	w.change = func(c *replica.Config) { c.Logger = slog.New(l) }
	w.nodes = []*member{{name: "n1", dir: t.TempDir()}}
	need(t)
	w.open(0)
	defer func() { w.kill(0) }()
	defer close(l.goOn)
	w.eventually("it writes", func() bool { return l.stuck.Load() > 0 })
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		w.nodes[0].Status(context.Background())
	}()
	select {
	case <-answered:
	case <-time.After(10 * time.Second):
		t.Error("it waits for who writes the log")
	}
}

// A node that starts again has its old epochs at hand, and tells them in one line; those that follow are news.
func TestReplayedEpochsAreNoNews(t *testing.T) {
	said := map[string]*logs{}
	w := newWorldWith(t, 1, func(c *replica.Config) {
		said[c.Name] = &logs{}
		c.Logger = slog.New(slog.NewTextHandler(said[c.Name], nil))
	})
	for range 2 {
		w.kill(0)
		w.open(0)
		w.leader()
	}
	text := strings.Join(said["n1"].lines(), "\n")
	if strings.Count(text, "epoch begins") != 1 || !regexp.MustCompile(`epochs replayed" epochs=\d+ newest=3 leader=n1 `).MatchString(text) {
		t.Errorf("the third start says:\n%s", text)
	}
}
