// Package compat tries clients that other people have made, as they come, on three nodes: they
// are configured for Sentinel, and go on when the leader is killed. scripts/compat runs it.
package compat

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// program is a client: how it is run, and how to know that it can be.
type program struct {
	name    string
	command []string
	probe   []string // fails where its library is missing
}

func programs(t *testing.T) []program {
	binary := t.TempDir() + "/client"
	if out, err := exec.Command("go", "build", "-o", binary, "./go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	hasRedis := []string{"-c", "import redis.sentinel"}
	python := "/usr/bin/python3" // a distribution's package is for the distribution's Python
	if exec.Command(python, hasRedis...).Run() != nil {
		python = "python3"
	}
	return []program{
		{"go", []string{binary}, []string{"true"}},
		{"node", []string{"node", "node/client.js"}, []string{"node", "--eval", "require('./node/node_modules/ioredis')"}},
		{"python", []string{python, "python/client.py"}, append([]string{python}, hasRedis...)},
	}
}

// running is a client at work, and what it says was acknowledged.
type running struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	errs  bytes.Buffer
	done  chan struct{} // its output has ended

	mu     sync.Mutex
	acked  []string // members of its set
	counts []int64  // what its counter was said to be
}

func (p program) start(t *testing.T, c *cluster) *running {
	r := &running{name: p.name, done: make(chan struct{})}
	args := append(slices.Clone(p.command[1:]), "holdfast", c.sentinels(), password)
	r.cmd = exec.Command(p.command[0], args...)
	r.cmd.Stderr = &r.errs
	var err error
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.cmd.Process.Kill() }) // it has ended, or is not wanted any more
	go r.listen(out)
	return r
}

func (r *running) listen(out io.Reader) {
	defer close(r.done)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var member string
		var count int64
		if _, err := fmt.Sscanf(lines.Text(), "ack %s %d", &member, &count); err != nil {
			continue
		}
		r.mu.Lock()
		r.acked, r.counts = append(r.acked, member), append(r.counts, count)
		r.mu.Unlock()
	}
}

func (r *running) so() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.acked)
}

// more waits for so many more acknowledgements of every client.
func more(t *testing.T, all []*running, n int) {
	t.Helper()
	for _, r := range all {
		want := r.so() + n
		eventually(t, fmt.Sprintf("%s goes on; it has %d acknowledgements", r.name, r.so()), func() bool { return r.so() >= want })
	}
}

// end has the client end by itself, as the same process that was started.
func (r *running) end(t *testing.T) {
	_ = r.stdin.Close()
	select {
	case <-r.done:
	case <-time.After(15 * time.Second):
		t.Fatalf("%s does not end", r.name)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("%s: %v", r.name, err)
	}
}

// check looks at the data for all that the client was told.
func (r *running) check(t *testing.T, c *cluster) {
	there := map[string]bool{}
	for _, member := range c.ask("SMEMBERS", "compat:"+r.name) {
		there[member] = true
	}
	missing := 0
	for _, member := range r.acked {
		if !there[member] {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%s: %d of %d acknowledged members are missing", r.name, missing, len(r.acked))
	}
	counter, err := strconv.ParseInt(c.ask("GET", "compat:"+r.name+":n")[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(r.counts); i++ {
		if r.counts[i] <= r.counts[i-1] {
			t.Errorf("%s: the counter was told to be %d after %d", r.name, r.counts[i], r.counts[i-1])
		}
	}
	if last := r.counts[len(r.counts)-1]; counter < last || counter < int64(len(r.counts)) {
		t.Errorf("%s: the counter is %d; %d increments were acknowledged, the last as %d", r.name, counter, len(r.counts), last)
	}
	t.Logf("%s: %d acknowledged, all there; the counter is %d; it reported %d errors", r.name, len(r.acked), counter,
		bytes.Count(r.errs.Bytes(), []byte("\n")))
}

// Two leaders in a row are killed under three kinds of clients. None of them is told or restarted.
func TestClientsGoOn(t *testing.T) {
	began := time.Now()
	c := startCluster(t)
	defer func() {
		if t.Failed() {
			c.logs()
		}
	}()
	var all []*running
	for _, p := range programs(t) {
		if out, err := exec.Command(p.probe[0], p.probe[1:]...).CombinedOutput(); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: %v\n%s", p.name, err, out)
			}
			t.Logf("%s: SKIPPED, its library is missing; see scripts/deps compat", p.name)
			continue
		}
		all = append(all, p.start(t, c))
	}
	defer func() {
		for _, r := range all {
			if t.Failed() {
				t.Logf("%s said:\n%.4000s", r.name, r.errs.String())
			}
		}
	}()
	more(t, all, 20)
	for range 2 {
		old := c.leader()
		c.kill(old)
		killed := time.Now()
		now := c.leader()
		if now == old {
			t.Fatal("the leader was killed, and leads")
		}
		led := time.Since(killed)
		for _, r := range all {
			more(t, []*running{r}, 1)
			t.Logf("%s had an acknowledgement after %d ms at most", r.name, time.Since(killed).Milliseconds())
		}
		more(t, all, 40)
		t.Logf("%s was killed; %s was seen to lead after %d ms", old.name, now.name, led.Milliseconds())
		c.start(old)
		c.awaitVoters()
	}
	for _, r := range all {
		r.end(t)
	}
	for _, r := range all {
		r.check(t, c)
	}
	t.Logf("all in %.1f s", time.Since(began).Seconds())
}
