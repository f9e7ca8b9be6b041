package replica_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

// waits are how long clients' writes took, from the first try to the answer.
type waits struct {
	mu  sync.Mutex
	all []time.Duration
}

func (ws *waits) add(d time.Duration) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.all = append(ws.all, d)
}

// longest is the longest one since it was asked last.
func (ws *waits) longest() time.Duration {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	defer func() { ws.all = nil }()
	if len(ws.all) == 0 {
		return 0
	}
	return slices.Max(ws.all)
}

func (ws *waits) count() int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.all)
}

// patient writes from several clients, each of which repeats a write at another node until it is answered.
func (w *world) patient(clients int) (*waits, func()) {
	ws := &waits{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			var c *client
			at := i
			for k := 0; ctx.Err() == nil; k++ {
				began := time.Now()
				for ctx.Err() == nil {
					var err error
					if c == nil {
						at++
						c, err = w.dial(at % len(w.nodes))
					}
					if err == nil {
						if _, err = c.do("SET", fmt.Sprint("p", i), fmt.Sprint(k)); err == nil {
							break
						}
						c.close()
					}
					c = nil
				}
				ws.add(time.Since(began))
			}
			if c != nil {
				c.close()
			}
		})
	}
	return ws, func() { cancel(); wg.Wait() }
}

// plannedLimit is the longest that a write waits for a hand-over.
const plannedLimit = 100 * time.Millisecond

// A planned hand-over makes no write wait for more than 100 ms. What writes wait for anyway on a machine
// that has other things to do is measured in the same run, just before each hand-over.
func TestHandOverIsShort(t *testing.T) {
	w := newWorld(t, 3)
	ws, stop := w.patient(4)
	defer stop()
	const series = 3 // one is enough: others may have had the processors in between
	for i := range series {
		anyway, handed := w.handOvers(ws, 7)
		t.Logf("longest waits: without a hand-over %v, with one %v", anyway, handed)
		more := handed[len(handed)/2] - anyway[len(anyway)/2]
		if more <= plannedLimit {
			return
		}
		if i == series-1 {
			t.Errorf("a hand-over makes writes wait for %s more, median of %d", more, len(handed))
		}
	}
}

// handOvers moves leadership n times, and tells the longest waits before and while, the shortest first.
func (w *world) handOvers(ws *waits, n int) (anyway, handed []time.Duration) {
	w.t.Helper()
	for range n {
		old := w.leader()
		ws.longest()
		w.eventually("writes go on", func() bool { return ws.count() > 200 })
		anyway = append(anyway, ws.longest())
		ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
		err := w.nodes[old].HandOver(ctx)
		cancel()
		if err != nil {
			w.t.Fatal(err)
		}
		w.eventually("writes go on", func() bool { return ws.count() > 200 })
		handed = append(handed, ws.longest())
		if w.leader() == old {
			w.t.Fatal("it leads still")
		}
	}
	slices.Sort(anyway)
	slices.Sort(handed)
	return anyway, handed
}

// Snapshots are made under load: the engine forks, and writes go on.
func TestSnapshotUnderLoad(t *testing.T) {
	w := newWorld(t, 3)
	leader := w.leader()
	for k := range 4 {
		w.do("SET", fmt.Sprint("big", k), noise(4<<20))
	}
	ws, stop := w.patient(2)
	w.eventually("writes go on", func() bool { return ws.count() > 100 })
	anyway := ws.longest()
	before := w.nodes[leader].Status(t.Context())
	for i, m := range w.nodes {
		w.do("SET", fmt.Sprint("mark", i), "v")
		if err := m.MakeSnapshot(); err != nil {
			stop()
			t.Fatal(err)
		}
	}
	during := ws.longest()
	after := w.nodes[leader].Status(t.Context())
	if after.Log.Snapshot <= before.Log.Snapshot {
		t.Errorf("there is no new snapshot: %+v, %+v", before.Log, after.Log)
	}
	t.Logf("longest waits: %v without, %v while three snapshots of %d bytes were made", anyway, during, after.Disk.Snapshot)
	if during > anyway+time.Second {
		t.Errorf("a write waited for %s while snapshots were made, %s before", during, anyway)
	}
	w.do("SET", "mark3", "v")
	stop()
	for i := range w.nodes {
		w.kill(i)
	}
	for i := range w.nodes {
		w.open(i)
	}
	for k := range 4 {
		if got := w.do("GET", fmt.Sprint("mark", k)); got != "v" {
			t.Errorf("mark%d is %q", k, got)
		}
	}
	w.sameDigests()
}

// logs are what a node says at the default level.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.b.String()), "\n")
}

// Who reads the log of the node that took over has the failover in ten lines: that the leader was lost, who
// leads in which term, which epoch begins where, and that clients are served.
func TestLogTellsAFailover(t *testing.T) {
	said := map[string]*logs{}
	w := newWorldWith(t, 3, func(c *replica.Config) {
		if said[c.Name] == nil {
			said[c.Name] = &logs{}
		}
		c.Logger = slog.New(slog.NewTextHandler(said[c.Name], nil))
	})
	w.do("SET", "k", "v")
	old := w.leader()
	before := map[string]int{}
	for i, m := range w.nodes {
		if i != old {
			before[m.name] = len(said[m.name].lines())
		}
	}
	w.kill(old)
	now := w.leader()
	for name, from := range before {
		want := []string{"level=INFO msg=leader term=", "leader=" + w.nodes[now].name, "epoch begins"}
		if name == w.nodes[now].name {
			want = append(want, "this node leads", "offset=")
		}
		for _, word := range want {
			w.eventually(fmt.Sprintf("%s says %q", name, word), func() bool {
				return strings.Contains(strings.Join(said[name].lines()[from:], "\n"), word)
			})
		}
		if lines := said[name].lines()[from:]; len(lines) > 10 {
			t.Errorf("%s says it in %d lines:\n%s", name, len(lines), strings.Join(lines, "\n"))
		}
	}
}

// The log says why the leader changes, to whom leadership goes, and once that a member is lost and that it is back.
func TestLogTellsWhy(t *testing.T) {
	said := map[string]*logs{}
	w := newWorldWith(t, 3, func(c *replica.Config) {
		if said[c.Name] == nil {
			said[c.Name] = &logs{}
		}
		c.Logger = slog.New(slog.NewTextHandler(said[c.Name], nil))
	})
	says := func(word string) (times int) {
		for _, l := range said {
			times += strings.Count(strings.Join(l.lines(), "\n"), word)
		}
		return times
	}
	old := w.leader()
	if err := w.nodes[old].HandOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	leader := w.leader()
	if word := `"leadership is handed on" to=` + w.nodes[leader].name + ` why="this node ends"`; says(word) != 1 {
		t.Errorf("nobody says %s:\n%s", word, strings.Join(said[w.nodes[old].name].lines(), "\n"))
	}
	lost := 3 - old - leader
	w.kill(lost)
	gone := `"a member does not answer" name=` + w.nodes[lost].name
	w.eventually("its loss is told", func() bool { return says(gone) > 0 })
	w.open(lost)
	w.eventually("its return is told", func() bool { return says(`"a member answers again" name=`+w.nodes[lost].name) > 0 })
	if got := says(gone); got > 3 { // a leader looks ten times a second; another one may have led meanwhile
		t.Errorf("the loss is told %d times", got)
	}
}
