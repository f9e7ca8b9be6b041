package bench

import (
	"bufio"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// writers write through any node, one write at a time each, and remember when each was
// acknowledged and how long it had waited.
type writers struct {
	addrs []string
	stop  chan struct{}
	all   sync.WaitGroup

	mu   sync.Mutex
	acks []ack
}

// ack is a write from its first try, in which it may have been sent again and again.
type ack struct{ began, sent, done time.Time }

func (f *nodeFleet) write(many int) *writers {
	w := &writers{stop: make(chan struct{})}
	for _, n := range f.nodes {
		w.addrs = append(w.addrs, n.clients)
	}
	for i := range many {
		w.all.Go(func() { w.run(i) })
	}
	return w
}

func (w *writers) run(at int) {
	var c net.Conn
	var r *bufio.Reader
	began := time.Now()
	for {
		select {
		case <-w.stop:
			if c != nil {
				_ = c.Close()
			}
			return
		default:
		}
		if c == nil {
			at++
			var err error
			if c, err = net.DialTimeout("tcp", w.addrs[at%len(w.addrs)], time.Second); err != nil {
				c = nil
				time.Sleep(5 * time.Millisecond)
				continue
			}
			r = bufio.NewReader(c)
		}
		sent := time.Now()
		if !written(c, r) {
			_ = c.Close()
			c = nil
			continue
		}
		done := time.Now()
		w.mu.Lock()
		w.acks = append(w.acks, ack{began, sent, done})
		w.mu.Unlock()
		began = done
	}
}

var aWrite = command("SET", "key", "value")

func written(c net.Conn, r *bufio.Reader) bool {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(aWrite); err != nil {
		return false
	}
	text, err := r.ReadString('\n')
	return err == nil && strings.HasPrefix(text, "+OK")
}

// since waits until each of the writers has had acknowledgements for a while after that moment.
func (w *writers) since(t *testing.T, at time.Time) (after []ack) {
	t.Helper()
	eventually(t, "writes go on", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		after = after[:0]
		for _, a := range w.acks {
			if a.done.After(at) {
				after = append(after, a)
			}
		}
		return len(after) > 0 && after[len(after)-1].done.Sub(after[0].done) > 500*time.Millisecond && len(after) > 200
	})
	return after
}

func (w *writers) end() {
	close(w.stop)
	w.all.Wait()
}

// killLeader says how long nothing was acknowledged, and makes all well again.
func (f *nodeFleet) killLeader(t *testing.T) time.Duration {
	w := f.write(16)
	defer w.end()
	w.since(t, time.Now())
	leader := f.leader(t)
	at := time.Now()
	leader.process.kill()
	first := time.Time{}
	for _, a := range w.since(t, at.Add(time.Millisecond)) {
		if a.sent.After(at) && (first.IsZero() || a.done.Before(first)) {
			first = a.done
		}
	}
	if first.IsZero() {
		t.Fatal("no write that was sent after the kill was acknowledged")
	}
	for i, n := range f.nodes {
		if n == leader {
			f.start(t, i)
		}
	}
	f.await(t)
	return first.Sub(at)
}

// handOver says how long the write waited that waited longest.
func (f *nodeFleet) handOver(t *testing.T) (longest time.Duration) {
	w := f.write(16)
	defer w.end()
	w.since(t, time.Now())
	at := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := f.admin.Transfer(ctx, f.leader(t).raft, ""); err != nil {
		t.Fatal(err)
	}
	for _, a := range w.since(t, at) {
		longest = max(longest, a.done.Sub(a.began))
	}
	return longest
}
