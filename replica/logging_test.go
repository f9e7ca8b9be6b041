package replica_test

import (
	"context"
	"log/slog"
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
