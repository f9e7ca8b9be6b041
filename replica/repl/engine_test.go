package repl_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica/engine"
	"github.com/holdfast-dev/holdfast/replica/repl"
)

func startEngine(t *testing.T) *engine.Engine {
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
	t.Cleanup(func() { _ = e.Stop() })
	return e
}

func must(t *testing.T, e *engine.Engine, words ...string) any {
	t.Helper()
	answer, err := e.Do(t.Context(), words...)
	if err != nil {
		t.Fatalf("%v: %v", words, err)
	}
	return answer
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// tape is a log in memory: it records an engine's stream and feeds others from it.
type tape struct {
	mu       sync.Mutex
	grown    *sync.Cond
	rdb      []byte
	begin    int64  // offset of rdb
	bytes    []byte // what follows
	safe     int64
	clean    map[string]int64 // replid: how far it may have come to go on
	scanner  repl.Scanner
	attached *repl.Attachment
	copies   int
}

func newTape() *tape {
	l := &tape{clean: map[string]int64{}}
	l.grown = sync.NewCond(&l.mu)
	return l
}

// record copies e, then takes its stream down until the attachment ends.
func (l *tape) record(t *testing.T, e *engine.Engine) {
	t.Helper()
	conn, err := e.Admin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var rdb bytes.Buffer
	a, err := repl.Copy(t.Context(), conn, &rdb)
	if err != nil {
		t.Fatal(err)
	}
	l.rdb, l.begin, l.safe = rdb.Bytes(), a.Position().Offset, a.Position().Offset
	l.run(t, a)
	eventually(t, "the engine takes writes", func() bool {
		info, err := e.Info(t.Context(), "replication")
		return err == nil && info["min_slaves_good_slaves"] != "0"
	})
}

func (l *tape) run(t *testing.T, a *repl.Attachment) {
	l.attached = a
	done := make(chan struct{})
	t.Cleanup(func() { _ = a.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := a.Read(buf)
			if err != nil {
				return
			}
			l.mu.Lock()
			safe, err := l.scanner.Scan(buf[:n])
			if err != nil {
				t.Error(err)
			}
			if safe >= 0 {
				l.safe = l.begin + int64(len(l.bytes)+safe)
			}
			l.bytes = append(l.bytes, buf[:n]...)
			l.mu.Unlock()
			l.grown.Broadcast()
			_ = a.Ack(a.Position().Offset)
		}
	}()
}

func (l *tape) end() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.safe
}

func (l *tape) Resume(_ context.Context, from repl.Position) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if end, ok := l.clean[from.ReplID]; !ok || from.Offset > end {
		return -1, nil
	}
	return from.Offset, nil
}

func (l *tape) Snapshot(context.Context) (io.ReadCloser, int64, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.copies++
	return io.NopCloser(bytes.NewReader(l.rdb)), int64(len(l.rdb)), l.begin, nil
}

func (l *tape) Read(ctx context.Context, after int64, p []byte) (int, error) {
	defer context.AfterFunc(ctx, l.grown.Broadcast)()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.safe <= after && ctx.Err() == nil {
		l.grown.Wait()
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	return copy(p, l.bytes[after-l.begin:l.safe-l.begin]), nil
}

func newFeed(t *testing.T, l *tape) *repl.Feed {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := repl.NewFeed(listener, "feed", "secret", l, slog.New(slog.NewTextHandler(io.Discard, nil)))
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func follow(t *testing.T, e *engine.Engine, f *repl.Feed) {
	t.Helper()
	if err := e.Follow(t.Context(), f.Port(), "feed", "secret"); err != nil {
		t.Fatal(err)
	}
}

// mixed writes commands whose effects in the stream differ from what was sent.
func mixed(t *testing.T, e *engine.Engine, round int) {
	t.Helper()
	n := fmt.Sprint(round)
	for _, words := range [][]string{
		{"SELECT", fmt.Sprint(round % 4)}, {"SET", "s" + n, "v", "PX", "100000"}, {"SADD", "set", "a" + n, "b" + n, "c" + n},
		{"SPOP", "set"}, {"EXPIRE", "s" + n, "1000"}, {"INCR", "n"}, {"LPUSH", "l", n}, {"XADD", "x", "*", "f", n},
		{"ZADD", "z", n, "m" + n}, {"HSET", "h", n, n}, {"PUBLISH", "c", n},
		{"EVAL", "redis.call('INCR','a') redis.call('INCR','b') return 1", "0"},
		{"MULTI"}, {"INCR", "m1"}, {"INCR", "m2"}, {"EXEC"},
		{"FUNCTION", "LOAD", "REPLACE", "#!lua name=l" + n + "\nredis.register_function('f" + n + "', function() return 1 end)"},
		{"SELECT", "0"},
	} {
		must(t, e, words...)
	}
}

// caughtUp waits until e has consumed the tape.
func caughtUp(t *testing.T, e *engine.Engine, l *tape) {
	t.Helper()
	eventually(t, "consumed", func() bool {
		r, err := e.Role(t.Context())
		return err == nil && !r.Master && r.Offset == l.end()
	})
}

func recorded(t *testing.T, e *engine.Engine, l *tape) {
	t.Helper()
	eventually(t, "recorded", func() bool {
		r, err := e.Role(t.Context())
		return err == nil && r.Offset == l.end()
	})
}

func sameDigest(t *testing.T, a, b *engine.Engine) {
	t.Helper()
	x, err := a.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	y, err := b.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if x != y {
		t.Fatalf("digests %s and %s", x, y)
	}
}

func TestFedEngineIsEqual(t *testing.T) {
	master, fed := startEngine(t), startEngine(t)
	var l = newTape()
	l.record(t, master)
	f := newFeed(t, l)
	follow(t, fed, f)
	for round := range 50 {
		mixed(t, master, round)
	}
	recorded(t, master, l)
	caughtUp(t, fed, l)
	sameDigest(t, master, fed)
	eventually(t, "acknowledged", func() bool { return f.Acked() == l.end() })
}

// A copy is taken while writes go on; they follow it.
func TestCopyUnderLoad(t *testing.T) {
	master, fed := startEngine(t), startEngine(t)
	early := newTape()
	early.record(t, master) // makes it take writes
	must(t, master, "DEBUG", "POPULATE", "20000", "key", "100")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_, _ = master.Do(context.Background(), "INCR", fmt.Sprint("n", i%100))
			}
		}
	}()
	l := newTape()
	l.record(t, master)
	follow(t, fed, newFeed(t, l))
	at := l.end()
	eventually(t, "written meanwhile", func() bool { return l.end() > at+10_000 })
	close(stop)
	<-done
	recorded(t, master, l)
	caughtUp(t, fed, l)
	sameDigest(t, master, fed)
}

// The whole way of a change of leader: a fed engine is promoted and goes on from the same
// offset; the old master goes on when it is clean, and gets a full copy when it is not.
func TestPromotion(t *testing.T) {
	for _, dirty := range []bool{false, true} {
		t.Run(fmt.Sprintf("dirty=%v", dirty), func(t *testing.T) {
			old, next := startEngine(t), startEngine(t)
			l := newTape()
			l.record(t, old)
			f := newFeed(t, l)
			follow(t, next, f)
			mixed(t, old, 1)
			recorded(t, old, l)
			caughtUp(t, next, l)
			if err := l.attached.Close(); err != nil {
				t.Fatal(err)
			}
			first := l.attached.Position().ReplID
			if dirty {
				must(t, old, "CONFIG", "SET", "min-replicas-to-write", "0")
				must(t, old, "SET", "never", "committed")
			}
			l.clean[first] = l.end()

			replid, offset, err := next.Promote(t.Context())
			if err != nil || offset != l.end() {
				t.Fatalf("promoted at %d, %v; the log ends at %d", offset, err, l.end())
			}
			conn, err := next.Admin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			a, err := repl.Attach(t.Context(), conn, repl.Position{ReplID: replid, Offset: offset})
			if err != nil {
				t.Fatal(err)
			}
			l.run(t, a)
			mixed(t, next, 2)
			recorded(t, next, l)
			copies := l.copies
			follow(t, old, newFeed(t, l))
			caughtUp(t, old, l)
			sameDigest(t, old, next)
			if got := l.copies > copies; got != dirty {
				t.Fatalf("full copy: %v", got)
			}
			if must(t, old, "EXISTS", "never") != int64(0) {
				t.Fatal("what was never committed is still there")
			}
		})
	}
}

// A connection cut anywhere costs nothing: the engine goes on where it was.
func TestCutFeed(t *testing.T) {
	master, fed := startEngine(t), startEngine(t)
	l := newTape()
	l.record(t, master)
	f := newFeed(t, l)
	follow(t, fed, f)
	for round := range 60 {
		mixed(t, master, round)
		if round%5 == 0 {
			f.Cut()
		}
	}
	recorded(t, master, l)
	caughtUp(t, fed, l)
	sameDigest(t, master, fed)
}

func TestRestartedEngineIsNoSource(t *testing.T) {
	master, other := startEngine(t), startEngine(t)
	l := newTape()
	l.record(t, master)
	mixed(t, master, 1)
	recorded(t, master, l)
	conn, err := other.Admin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := l.attached.Position()
	if _, err := repl.Attach(t.Context(), conn, at); err == nil {
		t.Fatal("an engine that has none of it went on")
	}
}

// WAIT returns as soon as the node acknowledges.
func TestAckAtOnce(t *testing.T) {
	master := startEngine(t)
	l := newTape()
	l.record(t, master)
	must(t, master, "INCR", "n")
	recorded(t, master, l)
	for range 20 {
		must(t, master, "INCR", "n")
		begin := time.Now()
		if n := must(t, master, "WAIT", "1", "5000"); n != int64(1) || time.Since(begin) > 500*time.Millisecond {
			t.Fatalf("WAIT said %v after %v", n, time.Since(begin))
		}
	}
}

func TestWrongPassword(t *testing.T) {
	fed := startEngine(t)
	f := newFeed(t, newTape())
	if err := fed.Follow(t.Context(), f.Port(), "feed", "wrong"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refused", func() bool { return bytes.Contains([]byte(fed.LastWords()), []byte("WRONGPASS")) })
	if f.Acked() != -1 {
		t.Fatal("taken")
	}
}

// An engine that loads a large copy sends empty lines meanwhile. It was taken for garbage, cut off, and got
// the copy again, for ever.
func TestSignsOfLifeOfALoadingEngine(t *testing.T) {
	master := startEngine(t)
	l := newTape()
	l.record(t, master)
	f := newFeed(t, l)
	c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", f.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	go func() { _, _ = io.Copy(io.Discard, c) }() // ends with the connection
	for _, piece := range []string{
		"*3\r\n$4\r\nAUTH\r\n$4\r\nfeed\r\n$6\r\nsecret\r\n", "*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n",
		"\n", "\n\n", "*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n7\r\n",
	} {
		if _, err := io.WriteString(c, piece); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "what follows the empty lines is heard", func() bool { return f.Acked() == 7 })
}
