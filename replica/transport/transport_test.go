package transport_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-dev/holdfast/replica/transport"
)

var secret = bytes.Repeat([]byte("s"), transport.MinSecret)

// end is one node's transport, and what arrived at it.
type end struct {
	*transport.Transport
	addr string

	mu          sync.Mutex
	got         []*pb.Message
	file        []byte
	sent        []bool
	unreachable int
	block       chan struct{} // MsgApp with entries waits for it
	source      []byte
}

func open(t *testing.T, id uint64, change func(*transport.Config)) *end {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &end{addr: l.Addr().String()}
	cfg := transport.Config{
		ID: id, Cluster: "c", Secret: secret, Listener: l, Logger: slog.New(slog.DiscardHandler),
		Message: e.message, Snapshot: e.snapshot,
		OpenSnapshot: func(*pb.Message) (io.ReadCloser, int64, error) {
			return io.NopCloser(bytes.NewReader(e.source)), int64(len(e.source)), nil
		},
		SnapshotSent: func(_ uint64, ok bool) { e.mu.Lock(); defer e.mu.Unlock(); e.sent = append(e.sent, ok) },
		Unreachable:  func(uint64) { e.mu.Lock(); defer e.mu.Unlock(); e.unreachable++ },
		Streams: map[string]func(*transport.Conn){"echo": func(c *transport.Conn) {
			_, _ = io.Copy(c, c)
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}},
	}
	if change != nil {
		change(&cfg)
	}
	if e.Transport, err = transport.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func (e *end) message(m *pb.Message) {
	e.mu.Lock()
	block := e.block
	e.mu.Unlock()
	if block != nil && len(m.GetEntries()) > 0 {
		<-block
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.got = append(e.got, m)
}

func (e *end) snapshot(m *pb.Message, file io.Reader) error {
	b, err := io.ReadAll(file)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.file = b
	e.got = append(e.got, m)
	return err
}

func (e *end) count(kind pb.MessageType) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.got {
		if m.GetType() == kind {
			n++
		}
	}
	return n
}

func message(kind pb.MessageType, from, to uint64, size int) *pb.Message {
	m := &pb.Message{Type: &kind, From: &from, To: &to}
	if size > 0 {
		m.Entries = []*pb.Entry{{Data: make([]byte, size)}}
	}
	return m
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func pair(t *testing.T) (a, b *end) {
	t.Helper()
	a, b = open(t, 1, nil), open(t, 2, nil)
	peers := map[uint64]string{1: a.addr, 2: b.addr}
	a.SetPeers(peers)
	b.SetPeers(peers)
	eventually(t, "connected", func() bool {
		a.Send([]*pb.Message{message(pb.MsgHeartbeat, 1, 2, 0)})
		b.Send([]*pb.Message{message(pb.MsgHeartbeat, 2, 1, 0)})
		return a.count(pb.MsgHeartbeat) > 0 && b.count(pb.MsgHeartbeat) > 0
	})
	eventually(t, "connected for entries", func() bool {
		a.Send([]*pb.Message{message(pb.MsgApp, 1, 2, 1)})
		return b.count(pb.MsgApp) > 0
	})
	return a, b
}

func TestHeartbeatsPassBesideData(t *testing.T) {
	a, b := pair(t)
	block := make(chan struct{})
	defer close(block)
	b.mu.Lock()
	b.block = block
	b.mu.Unlock()
	for range 400 { // more than the queue and the sockets hold
		a.Send([]*pb.Message{message(pb.MsgApp, 1, 2, 1<<20)})
	}
	before := b.count(pb.MsgHeartbeat)
	a.Send([]*pb.Message{message(pb.MsgHeartbeat, 1, 2, 0)})
	eventually(t, "a heartbeat passes", func() bool { return b.count(pb.MsgHeartbeat) > before })
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unreachable == 0 {
		t.Fatal("nobody was told that entries were dropped")
	}
}

// One that only says what is committed must not come before the entries that it stands behind:
// the follower would refuse it, and be sent all of them again.
func TestAppendsKeepTheirOrder(t *testing.T) {
	a, b := pair(t)
	const many = 200
	for i := range uint64(many) {
		size := (64 << 10) * (1 - int(i%2)) // every other one has no entries
		m := message(pb.MsgApp, 1, 2, size)
		m.Index = &i
		a.Send([]*pb.Message{m})
	}
	var got []uint64
	eventually(t, "all have come", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		got = got[:0]
		for _, m := range b.got {
			if m.Index != nil {
				got = append(got, m.GetIndex())
			}
		}
		return len(got) == many
	})
	if !slices.IsSorted(got) {
		t.Fatalf("they came as %d", got)
	}
}

func TestSnapshotFile(t *testing.T) {
	a, b := pair(t)
	a.source = make([]byte, 8<<20+17)
	_, _ = rand.Read(a.source)
	m := message(pb.MsgSnap, 1, 2, 0)
	m.Snapshot = &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: new(uint64(7))}}
	a.Send([]*pb.Message{m})
	eventually(t, "sent", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.sent) == 1 && a.sent[0] })
	if !bytes.Equal(b.file, a.source) || b.count(pb.MsgSnap) != 1 {
		t.Fatal("it is another file")
	}
}

func TestWhoIsRefused(t *testing.T) {
	a := open(t, 1, nil)
	for _, c := range []struct {
		name   string
		change func(*transport.Config)
		kind   string
		want   error
	}{
		{"another secret", func(c *transport.Config) { c.Secret = bytes.Repeat([]byte("x"), 32) }, "echo", transport.ErrSecret},
		{"another cluster", func(c *transport.Config) { c.Cluster = "other" }, "echo", transport.ErrOtherCluster},
		{"an unknown kind", nil, "tea", transport.ErrRefused},
		{"one that has no cluster yet is let in", func(c *transport.Config) { c.Cluster = "" }, "echo", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t, 2, c.change)
			conn, err := b.Dial(t.Context(), a.addr, c.kind)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v", err)
			}
			if conn != nil {
				_ = conn.Close()
			}
		})
	}
}

func TestShortSecret(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := transport.New(transport.Config{ID: 1, Secret: []byte("short"), Listener: l}); err == nil || !strings.Contains(err.Error(), "32") {
		t.Fatalf("got %v", err)
	}
}

// Garbage costs its own connection only.
func TestGarbage(t *testing.T) {
	a, b := pair(t)
	for _, bytes := range []string{"GET / HTTP/1.1\r\n\r\n", "*1\r\n$4\r\nPING\r\n", "\x16\x03\x01\xff\xff"} {
		c, err := net.Dial("tcp", a.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, bytes)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(c); errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q keeps its connection", bytes)
		}
		_ = c.Close()
	}
	c, err := tls.Dial("tcp", a.addr, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // what an intruder would do
	if err == nil {
		if _, err = c.Read(make([]byte, 1)); err == nil {
			t.Error("somebody without a certificate was let in")
		}
		_ = c.Close()
	}
	before := a.count(pb.MsgHeartbeat)
	b.Send([]*pb.Message{message(pb.MsgHeartbeat, 2, 1, 0)})
	eventually(t, "others go on", func() bool { return a.count(pb.MsgHeartbeat) > before })
}

func TestStreamsEndOneWayAtATime(t *testing.T) {
	a, b := open(t, 1, nil), open(t, 2, nil)
	c, err := b.Dial(t.Context(), a.addr, "echo")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestReconnects(t *testing.T) {
	a, b := pair(t)
	addr := b.addr
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, 2, func(c *transport.Config) {
		_ = c.Listener.Close()
		eventually(t, "the port is free", func() bool {
			l, err := net.Listen("tcp", addr)
			c.Listener = l
			return err == nil
		})
	})
	eventually(t, "messages again", func() bool {
		a.Send([]*pb.Message{message(pb.MsgHeartbeat, 1, 2, 0)})
		return b.count(pb.MsgHeartbeat) > 0
	})
}

// A connection that was given up long ago ends when the network says so. It tells nothing of the node, which
// has a newer one.
func TestOnlyTheNewestConnectionIsMissed(t *testing.T) {
	var lost atomic.Int32
	a := open(t, 1, nil)
	b := open(t, 2, func(c *transport.Config) { c.Lost = func(uint64) { lost.Add(1) } })
	dial := func(kind string) *transport.Conn {
		t.Helper()
		c, err := a.Dial(t.Context(), b.addr, kind)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	dead := dial("raft-control")
	newest, data := dial("raft-control"), dial("raft-data")
	_ = dead.Close()
	_ = newest.Close()
	eventually(t, "the newest is missed", func() bool { return lost.Load() == 1 })
	_ = data.Close()
	eventually(t, "the only one of its kind is missed", func() bool { return lost.Load() == 2 })
	if err := b.Close(); err != nil { // all that was open has ended
		t.Fatal(err)
	}
	if n := lost.Load(); n != 2 {
		t.Errorf("%d ends were told", n)
	}
}

// Raft sends a node nothing until it hears what became of the snapshot.
func TestASnapshotThatCannotBeSentHasFailed(t *testing.T) {
	a := open(t, 1, nil)
	m := message(pb.MsgSnap, 1, 7, 0)
	m.Snapshot = &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: new(uint64(7))}}
	a.Send([]*pb.Message{m}) // to somebody whose address is not known yet
	eventually(t, "told", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.sent) == 1 && !a.sent[0] })
	a.Send([]*pb.Message{message(pb.MsgApp, 1, 7, 1)})
	eventually(t, "told of entries, too", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.unreachable == 1 })
}
