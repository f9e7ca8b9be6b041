package gate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica/engine"
	"github.com/holdfast-dev/holdfast/replica/repl"
)

// world is a real engine behind a gate; the log is the test's: it commits when told to.
type world struct {
	t      testing.TB
	engine *engine.Engine
	gate   *Gate
	addr   string
	seen   atomic.Int64 // end of the engine's stream, as it has arrived
	auto   atomic.Bool  // commit at once
	leads  atomic.Bool
	silent atomic.Bool // leadership is neither confirmed nor denied
	mu     sync.Mutex
	asked  []func(bool)
}

func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if _, err := exec.LookPath("valkey-server"); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal("neither valkey-server nor redis-server is installed; run scripts/deps")
			}
			t.Skip("neither valkey-server nor redis-server is installed")
		}
	}
	e, err := engine.Start(t.Context(), engine.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, engine: e}
	w.auto.Store(true)
	w.leads.Store(true)
	cfg := Config{Engine: e.Client, Probe: e.Admin, Proposed: w.seen.Load, Verify: w.verify, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	w.gate = New(cfg)
	w.attach()
	w.gate.Open(w.seen.Load())
	w.listen()
	t.Cleanup(func() { _ = e.Stop() })
	return w
}

// attach follows the engine's stream.
func (w *world) attach() {
	conn, err := w.engine.Admin(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := repl.Copy(w.t.Context(), conn, io.Discard)
	if err != nil {
		w.t.Fatal(err)
	}
	w.seen.Store(a.Position().Offset)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			if _, err := a.Read(buf); err != nil {
				return
			}
			at := a.Position().Offset
			w.seen.Store(at)
			_ = a.Ack(at)
			if w.auto.Load() {
				w.gate.Committed(at)
			}
		}
	}()
	w.t.Cleanup(func() { _ = a.Close(); <-done })
	w.eventually("the engine takes writes", func() bool {
		_, err := w.engine.Do(w.t.Context(), "SET", "ready", "yes")
		return err == nil && w.seen.Load() > 0
	})
}

func (w *world) verify(done func(bool)) {
	if w.silent.Load() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked = append(w.asked, done)
		return
	}
	go done(w.leads.Load())
}

func (w *world) listen() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				_ = w.gate.Serve(c)
			}()
		}
	}()
	w.t.Cleanup(func() { _ = l.Close(); w.gate.Close(); wg.Wait() })
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("still not: %s", what)
		}
	}
}

// client is a connection through the gate.
type client struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

func (w *world) dial() *client {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{c, w.t, bufio.NewReader(c)}
}

func (c *client) say(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, format+"\r\n", args...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) hears() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func (c *client) expect(lines ...string) {
	c.t.Helper()
	for _, want := range lines {
		if got := c.hears(); got != want {
			c.t.Fatalf("heard %q, not %q", got, want)
		}
	}
}

// silence fails when something arrives although the engine has answered long ago.
func (c *client) silence() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(60 * time.Millisecond))
	if b, err := c.r.ReadByte(); err == nil {
		c.t.Fatalf("%q left before it was committed", b)
	} else if !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
}

// ended waits for the end of the connection and returns what came before it.
func (c *client) ended() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.r)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection goes on")
	}
	return string(rest)
}

// Each of these has its reply, and what others hear of it, held until it is committed.
func TestHeldUntilCommitted(t *testing.T) {
	for _, c := range []struct {
		name, say string
		hears     []string
	}{
		{"a write", "SET k v", []string{"+OK"}},
		{"a transaction", "MULTI\r\nINCR a\r\nINCR b\r\nEXEC", []string{"+OK", "+QUEUED", "+QUEUED", "*2", ":1", ":1"}},
		{"a script", `EVAL "redis.call('SET','x','1') return 'done'" 0`, []string{"$4", "done"}},
		{"a pipeline", strings.TrimSpace(strings.Repeat("INCR n\r\n", 10_000)), numbers(10_000)},
		{"a stream", "XADD x 1-1 f v", []string{"$3", "1-1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.auto.Store(false)
			client := w.dial()
			before := w.seen.Load()
			client.say("%s", c.say)
			w.eventually("done by the engine", func() bool { return w.seen.Load() > before })
			client.silence()
			w.auto.Store(true)
			w.eventually("heard", func() bool { w.gate.Committed(w.seen.Load()); return client.r.Buffered() > 0 || peek(client) })
			client.expect(c.hears...)
		})
	}
}

func numbers(n int) (out []string) {
	for i := range n {
		out = append(out, ":"+strconv.Itoa(i+1))
	}
	return out
}

func peek(c *client) bool {
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	_, err := c.r.Peek(1)
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return err == nil
}

// What a write makes others hear is held too: pushed messages, woken pops, invalidations, reads.
func TestOthersHearNothingEarly(t *testing.T) {
	w := newWorld(t, nil)
	reader, sub, pop, cache, writer := w.dial(), w.dial(), w.dial(), w.dial(), w.dial()
	sub.say("SUBSCRIBE c")
	sub.expect("*3", "$9", "subscribe", "$1", "c", ":1")
	cache.say("HELLO 3")
	cache.say("CLIENT TRACKING on BCAST")
	w.eventually("tracking", func() bool { return strings.HasPrefix(cache.hears(), "+OK") })
	pop.say("BLPOP l 0")
	writer.say("PING")
	writer.expect("+PONG")

	w.auto.Store(false)
	before := w.seen.Load()
	writer.say("MULTI\r\nRPUSH l v\r\nPUBLISH c m\r\nSET k v\r\nEXEC")
	w.eventually("done by the engine", func() bool { return w.seen.Load() > before })
	reader.say("GET k")
	for _, c := range []*client{reader, sub, pop, cache, writer} {
		c.silence()
	}
	w.auto.Store(true)
	w.gate.Committed(w.seen.Load())
	reader.expect("$1", "v")
	sub.expect("*3", "$7", "message", "$1", "c", "$1", "m")
	pop.expect("*2", "$1", "l", "$1", "v")
	cache.expect(">2", "$10", "invalidate")
}

// A script that runs long has messages sent before its effects are in the stream; the engine
// says BUSY meanwhile, and nothing leaves.
func TestBusyScript(t *testing.T) {
	w := newWorld(t, nil)
	if _, err := w.engine.Do(t.Context(), "CONFIG", "SET", "busy-reply-threshold", "20"); err != nil {
		t.Fatal(err)
	}
	sub, runs := w.dial(), w.dial()
	sub.say("SUBSCRIBE c")
	sub.expect("*3", "$9", "subscribe", "$1", "c", ":1")
	w.auto.Store(false)
	at := w.seen.Load()
	runs.say(`EVAL "redis.call('SET','k','v') redis.call('PUBLISH','c','m') local t=redis.call('TIME') local e=t[1]*1000+t[2]/1000+300 while true do t=redis.call('TIME') if t[1]*1000+t[2]/1000>e then return 1 end end" 0`)
	w.eventually("the script has ended", func() bool { return w.seen.Load() > at })
	sub.silence()
	w.auto.Store(true)
	w.gate.Committed(w.seen.Load())
	sub.expect("*3", "$7", "message", "$1", "c", "$1", "m")
	runs.expect(":1")
}

func TestReadsNeedLeadership(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial()
	c.say("GET ready")
	c.expect("$3", "yes")
	w.silent.Store(true)
	c.say("GET ready")
	c.silence()
	w.mu.Lock()
	asked := w.asked
	w.asked = nil
	w.mu.Unlock()
	if len(asked) == 0 {
		t.Fatal("nobody asked whether the node leads")
	}
	// A proof that was asked for before a reply was read does not serve that reply.
	other := w.dial()
	other.say("GET ready")
	w.eventually("the next one is read", func() bool { return w.gate.Stats().Rounds >= 2 })
	asked[0](true)
	c.expect("$3", "yes")
	other.silence()
	w.eventually("asked again", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.asked) > 0 })
	w.mu.Lock()
	no := w.asked[len(w.asked)-1]
	w.mu.Unlock()
	no(false)
	if got := other.ended(); got != "" {
		t.Fatalf("%q left without leadership", got)
	}
	if err := w.gate.Serve(nopConn{}); !errors.Is(err, ErrShut) {
		t.Fatalf("got %v", err)
	}
}

type nopConn struct{ net.Conn }

func (nopConn) Close() error { return nil }

func TestShutDropsWhatIsHeld(t *testing.T) {
	w := newWorld(t, nil)
	w.auto.Store(false)
	c := w.dial()
	before := w.seen.Load()
	c.say("SET k v")
	w.eventually("done", func() bool { return w.seen.Load() > before })
	w.gate.Shut()
	w.gate.Committed(w.seen.Load())
	if got := c.ended(); got != "" {
		t.Fatalf("%q left", got)
	}
	w.gate.Open(w.seen.Load())
	c = w.dial()
	c.say("GET k")
	c.expect("$1", "v")
	if s := w.gate.Stats(); s.Held != 0 {
		t.Fatal(s)
	}
}

// The end of a connection waits its turn behind the last reply.
func TestEndsInOrder(t *testing.T) {
	for _, half := range []bool{false, true} {
		w := newWorld(t, nil)
		w.auto.Store(false)
		c := w.dial()
		before := w.seen.Load()
		c.say("SET k v")
		if half {
			w.eventually("done", func() bool { return w.seen.Load() > before })
			_ = c.Conn.(*net.TCPConn).CloseWrite()
		} else {
			c.say("QUIT")
		}
		w.eventually("done", func() bool { return w.seen.Load() > before })
		c.silence()
		w.auto.Store(true)
		w.gate.Committed(w.seen.Load())
		if got := c.ended(); !strings.HasPrefix(got, "+OK\r\n") {
			t.Fatalf("half-closed %v: heard %q", half, got)
		}
	}
}

// A client that does not read costs itself and bounded memory.
func TestDeafClient(t *testing.T) {
	w := newWorld(t, nil)
	if _, err := w.engine.Do(t.Context(), "SETRANGE", "big", strconv.Itoa(64<<20-1), "x"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.dial().say("GET big")
	}
	w.eventually("as much is held as may be", func() bool { return w.gate.Stats().Held >= 1<<20 })
	other := w.dial()
	begin := time.Now()
	for i := range 200 {
		other.say("SET k %d", i)
		other.expect("+OK")
		if held := w.gate.Stats().Held; held > 8<<20 {
			t.Fatalf("%d bytes are held", held)
		}
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Fatalf("200 writes took %s", took)
	}
	reader := w.dial()
	reader.say("GET big")
	reader.expect("$67108864")
	if n, err := io.CopyN(io.Discard, reader.r, 64<<20); err != nil {
		t.Fatal(n, err)
	}
}

func TestHalfACommand(t *testing.T) {
	w := newWorld(t, nil)
	c, other := w.dial(), w.dial()
	if _, err := io.WriteString(c, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhal"); err != nil {
		t.Fatal(err)
	}
	other.say("SET k whole")
	other.expect("+OK")
	_ = c.Close()
	other.say("GET k")
	other.expect("$5", "whole")
	w.eventually("gone", func() bool { return w.gate.Stats().Conns == 1 })
}

func TestTooManyClients(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxConns = 2 })
	a, b := w.dial(), w.dial()
	for _, c := range []*client{a, b} {
		c.say("PING")
		c.expect("+PONG")
	}
	if got := w.dial().ended(); !strings.HasPrefix(got, "-ERR max number of clients reached") {
		t.Fatalf("heard %q", got)
	}
	if n := w.gate.Stats().Refused; n != 1 { // a node's clients_refused_total
		t.Fatalf("%d were refused", n)
	}
}

// A hand-over loses no reply: who sent a command before it hears the answer.
func TestDrain(t *testing.T) {
	w := newWorld(t, nil)
	stop := make(chan struct{})
	var acked atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		c := w.dial()
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := fmt.Fprint(c, "INCR n\r\n"); err != nil {
					return
				}
				if _, err := c.r.ReadString('\n'); err != nil {
					return
				}
				acked.Add(1)
			}
		}()
	}
	w.eventually("under load", func() bool { return acked.Load() > 1000 })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := w.gate.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	close(stop)
	wg.Wait()
	n, err := w.engine.Do(t.Context(), "GET", "n")
	if err != nil || n != fmt.Sprint(acked.Load()) {
		t.Fatalf("the engine did %v, clients heard of %d (%v)", n, acked.Load(), err)
	}
}

// A gate that could not be drained in time goes on; one that is opened anew leaves nobody waiting for a
// round that is void.
func TestOpenedAnew(t *testing.T) {
	w := newWorld(t, nil)
	w.auto.Store(false)
	c, before := w.dial(), w.seen.Load()
	c.say("INCR n")
	w.eventually("asked", func() bool { return w.gate.Stats().Rounds > 0 && w.seen.Load() > before })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := w.gate.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("drained: %v", err)
	}
	w.gate.Open(before)
	w.gate.Committed(w.seen.Load())
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if got := c.ended(); got != "" && got != ":1\r\n" {
		t.Fatalf("heard %q", got)
	}
}

func TestManyClients(t *testing.T) {
	w := newWorld(t, nil)
	n := 2000
	var clients []*client
	for range n {
		clients = append(clients, w.dial())
	}
	for i, c := range clients {
		c.say("SET k%d v", i)
	}
	for _, c := range clients {
		c.expect("+OK")
	}
}

// slowLog is a log that nobody reads.
type slowLog struct {
	slog.Handler
	stuck, goOn chan struct{}
}

func (l slowLog) Enabled(context.Context, slog.Level) bool { return true }

func (l slowLog) Handle(context.Context, slog.Record) error {
	close(l.stuck)
	<-l.goOn
	return nil
}

// A log that nobody reads does not hold the gate: those who commit and those who verify wait for it.
func TestNobodyWaitsForTheLog(t *testing.T) {
	l := slowLog{slog.DiscardHandler, make(chan struct{}), make(chan struct{})}
	w := newWorld(t, func(c *Config) { c.Logger = slog.New(l) })
	defer close(l.goOn)
	w.silent.Store(true)
	c := w.dial()
	c.say("GET none")
	w.eventually("it asks", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.asked) > 0 })
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.mu.Lock()
		asked := w.asked
		w.mu.Unlock()
		for _, a := range asked {
			a(false)
		}
		w.gate.Stats()
	}()
	<-l.stuck
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("it waits for who writes the log")
	}
}
