package replica_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

var large = flag.Bool("large", false, "tests of sizes: the sizes that are promised, which takes minutes")

// size is the promised one, or one that takes seconds.
func size(promised, quick int) int {
	if *large {
		return promised
	}
	return quick
}

// other is a client who has nothing to do with what the test does, and how long it waits.
type other struct {
	stop, done chan struct{}
	longest    time.Duration
	answers    int
	err        error
}

func (w *world) other() *other {
	w.t.Helper()
	o := &other{stop: make(chan struct{}), done: make(chan struct{})}
	c, err := w.dial(w.leader())
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(o.done)
		defer c.close()
		for ; o.err == nil; o.answers++ {
			select {
			case <-o.stop:
				return
			default:
			}
			begin := time.Now()
			_ = c.conn.SetDeadline(begin.Add(30 * time.Second))
			_, o.err = c.do("SET", "other", strconv.Itoa(o.answers))
			o.longest = max(o.longest, time.Since(begin))
		}
	}()
	return o
}

// end says how long the other client waited at most, and fails when it was cut off.
func (o *other) end(w *world) {
	w.t.Helper()
	close(o.stop)
	<-o.done
	if o.err != nil {
		w.t.Errorf("another client was cut off: %v", o.err)
	}
	w.t.Logf("another client had %d answers and waited %s at most", o.answers, o.longest)
}

// calm fails when the leader has changed since it was called first.
func (w *world) calm() func() {
	before := w.status()
	return func() {
		w.t.Helper()
		if now := w.status(); now.Term != before.Term || now.Name != before.Name {
			w.t.Errorf("an election: %s led in term %d, %s leads in term %d", before.Name, before.Term, now.Name, now.Term)
		}
	}
}

// raw is a connection to the leader on which the test says and hears bytes.
func (w *world) raw() (net.Conn, *bufio.Reader) {
	w.t.Helper()
	c, err := net.Dial("tcp", w.nodes[w.leader()].clients)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	return c, bufio.NewReader(c)
}

// A large value is written, read whole, and is on every node; nobody else is cut off by it.
func TestLargeValue(t *testing.T) {
	w := newWorld(t, 3)
	calm, o := w.calm(), w.other()
	n := size(64<<20, 8<<20)
	c, r := w.raw()
	if _, err := fmt.Fprintf(c, "*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n", n); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(c, xs{}, int64(n)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "\r\nGET big\r\n"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"+OK", "$" + strconv.Itoa(n)} {
		if line, err := r.ReadString('\n'); err != nil || strings.TrimSpace(line) != want {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if k, err := io.CopyN(io.Discard, r, int64(n)); err != nil {
		t.Fatal(k, err)
	}
	o.end(w)
	calm()
	w.sameDigests()
}

// xs is a reader without end.
type xs struct{}

func (xs) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// Clients that do not read, half a command and thousands that are idle cost themselves only.
func TestManyClients(t *testing.T) {
	w := newWorld(t, 3)
	calm := w.calm()
	setup, r := w.raw()
	fmt.Fprintf(setup, "SETRANGE big %d x\r\n", size(16<<20, 4<<20))
	if line, err := r.ReadString('\n'); err != nil || line[0] != ':' {
		t.Fatalf("%q, %v", line, err)
	}
	for range 10 {
		deaf, _ := w.raw()
		_, _ = io.WriteString(deaf, "GET big\r\nGET big\r\n")
		subscriber, _ := w.raw()
		_, _ = io.WriteString(subscriber, "SUBSCRIBE news\r\n")
		half, _ := w.raw()
		_, _ = io.WriteString(half, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhal")
	}
	many := size(5000, 300)
	for range many {
		c, r := w.raw()
		if _, err := io.WriteString(c, "PING\r\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := r.ReadString('\n'); err != nil || line != "+PONG\r\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	o := w.other()
	for range 200 { // each subscriber is due 200 KiB that it does not read
		fmt.Fprintf(setup, "PUBLISH news %s\r\n", strings.Repeat("n", 1<<10))
		if line, err := r.ReadString('\n'); err != nil || line[0] != ':' {
			t.Fatalf("%q, %v", line, err)
		}
	}
	o.end(w)
	s := w.status()
	if s.Clients < many+30 {
		t.Errorf("%d clients are connected", s.Clients)
	}
	if most := int64(20 * (1<<20 + 64<<10)); s.Held > most {
		t.Errorf("%d bytes are held, more than %d", s.Held, most)
	}
	calm()
}

func TestLongPipeline(t *testing.T) {
	w := newWorld(t, 3)
	c, r := w.raw()
	const many = 10_000
	go func() { _, _ = io.WriteString(c, strings.Repeat("INCR n\r\n", many)) }()
	for i := range many {
		if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf(":%d\r\n", i+1) {
			t.Fatalf("%q, %v", line, err)
		}
	}
}

// While a script runs the engine serves nobody. That is no reason for an election, and what comes
// after it sees what it did.
func TestLongScript(t *testing.T) {
	w := newWorld(t, 3)
	calm := w.calm()
	script := fmt.Sprintf("local t = redis.call('TIME') repeat local n = redis.call('TIME') "+
		"until (n[1]-t[1])*1000000 + n[2]-t[2] > %d redis.call('SET', KEYS[1], 'done') return 'ok'", size(5_000_000, 1_500_000))
	c, r := w.raw()
	fmt.Fprintf(c, "*4\r\n$4\r\nEVAL\r\n$%d\r\n%s\r\n$1\r\n1\r\n$1\r\nk\r\n", len(script), script)
	var answered atomic.Bool
	go func() {
		_, _ = r.ReadString('\n')
		answered.Store(true)
	}()
	o := w.other()
	w.eventually("the script has ended", answered.Load)
	if got := w.do("GET", "k"); got != "done" {
		t.Fatalf("after the script: %q", got)
	}
	o.end(w)
	calm()
}

// A node that joins gets a full copy while clients write.
func TestFullSyncUnderLoad(t *testing.T) {
	w := newWorld(t, 2)
	calm := w.calm()
	keys := size(1_000_000, 50_000)
	c, r := w.raw()
	const batch = 1000
	for k := 0; k < keys; k += batch {
		var b strings.Builder
		fmt.Fprintf(&b, "*%d\r\n$4\r\nMSET\r\n", 2*batch+1)
		for i := range batch {
			key := fmt.Sprintf("key:%09d", k+i)
			fmt.Fprintf(&b, "$%d\r\n%s\r\n$16\r\n0123456789abcdef\r\n", len(key), key)
		}
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(c, b.String()); err != nil {
			t.Fatal(err)
		}
		if line, err := r.ReadString('\n'); err != nil || line != "+OK\r\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	o := w.other()
	begin := time.Now()
	w.nodes = append(w.nodes, &member{name: "n3", dir: t.TempDir()})
	w.open(2)
	w.within(2*time.Minute, "its engine has all", func() bool {
		s := w.nodes[2].Status(context.Background())
		return s.Step == "rest" && voters(s) == 3 && s.Engine.Link == "connected" && s.Engine.Offset > 0 && s.Engine.Offset+1<<20 > s.Safe
	})
	t.Logf("%d keys took %s; this process has %d MiB", keys, time.Since(begin), resident()>>20)
	o.end(w)
	calm()
	w.sameDigests()
}

func voters(s replica.Status) (n int) {
	for _, m := range s.Nodes {
		if m.Voter {
			n++
		}
	}
	return n
}

// resident is the memory of this process, in which all the nodes are; 0 where it is not known.
func resident() int {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	words := strings.Fields(string(b))
	pages, _ := strconv.Atoi(words[1])
	return pages * os.Getpagesize()
}
