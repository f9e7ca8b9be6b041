package replica_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

// get asks a node's HTTP side.
func (m *member) get(path string) *httptest.ResponseRecorder {
	var ops replica.Ops
	ops.Set(m.Node, "")
	rec := httptest.NewRecorder()
	ops.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
	return rec
}

// sample is the value of a series, as its line begins.
func (m *member) sample(series string) (float64, bool) {
	for line := range strings.Lines(m.get("/metrics").Body.String()) {
		if rest, found := strings.CutPrefix(line, "holdfast_node_"+series+" "); found {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return value, err == nil
		}
	}
	return 0, false
}

// until waits for a series to be as told.
func (w *world) until(i int, series string, ok func(float64) bool) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s of %s", series, w.nodes[i].name), func() bool {
		if value, there := w.nodes[i].sample(series); there && ok(value) {
			return true
		}
		time.Sleep(20 * time.Millisecond) // to make the page is work, from which those who are looked at take away
		return false
	})
}

func is(want float64) func(float64) bool     { return func(v float64) bool { return v == want } }
func below(most float64) func(float64) bool  { return func(v float64) bool { return v < most } }
func above(least float64) func(float64) bool { return func(v float64) bool { return v > least } }

// Every metric moves when what it tells of happens.
func TestMetricsMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	leader := w.leader()
	follower, third := (leader+1)%3, (leader+2)%3
	name := func(i int) string { return w.nodes[i].name }
	before := map[string]float64{}
	grows := []string{`offset_bytes{of="engine"}`, `offset_bytes{of="proposed"}`, `offset_bytes{of="committed"}`, `offset_bytes{of="safe"}`,
		`log_index{of="last"}`, `log_index{of="commit"}`, `log_index{of="applied"}`, "log_sync_seconds_count", "commit_seconds_count",
		"verify_seconds_count", "log_bytes"}
	for _, series := range grows {
		before[series], _ = w.nodes[leader].sample(series)
	}
	s := w.breeze()
	s.more(200)
	for k := range 20 { // of reads alone, whose round needs a proof of its own
		w.do("GET", fmt.Sprint("none", k))
	}
	for _, series := range grows {
		w.until(leader, series, above(before[series]))
	}
	w.until(leader, "clients", above(0))
	w.until(leader, "rounds_in_flight", above(0))
	w.until(follower, "tunnels", above(0))
	for series, want := range map[string]float64{"leads": 1, "leader_known": 1, "voters": 3, "engine_up": 1, "disk_low": 0, "writes_refused": 0,
		"disk_reserve_bytes": testReserve, `follower_active{peer="` + name(third) + `"}`: 1, `peer_answers{peer="` + name(third) + `"}`: 1} {
		w.until(leader, series, is(want))
	}
	w.until(follower, "leads", is(0))
	w.until(leader, "disk_free_bytes", above(0))

	made, _ := w.nodes[leader].sample(`snapshots_total{outcome="made"}`)
	w.nodes[leader].WantSnapshot()
	w.until(leader, `snapshots_total{outcome="made"}`, above(made))
	w.until(leader, "snapshot_bytes", above(0))
	w.until(leader, "snapshot_age_seconds", func(v float64) bool { return v < 60 })
	old, _ := w.nodes[leader].sample("snapshot_age_seconds")
	w.until(leader, "snapshot_age_seconds", above(old))

	w.nodes[third].SetClock(func() time.Time { return time.Now().Add(90 * time.Second) })
	w.until(leader, `clock_ahead_seconds{peer="`+name(third)+`"}`, func(v float64) bool { return v > 85 && v < 95 })
	w.until(third, `clock_ahead_seconds{peer="`+name(leader)+`"}`, func(v float64) bool { return v < -85 && v > -95 })

	starts, _ := w.nodes[follower].sample("engine_starts_total")
	steps, _ := w.nodes[follower].sample(`steps_total{step="follow"}`)
	w.killEngine(follower)
	w.until(follower, "engine_starts_total", above(starts))
	w.until(follower, `steps_total{step="follow"}`, above(steps))
	w.until(follower, "engine_up", is(1))

	w.kill(third)
	w.until(leader, `follower_active{peer="`+name(third)+`"}`, is(0))
	w.until(leader, `follower_lag_entries{peer="`+name(third)+`"}`, above(10))
	w.until(leader, `peer_answers{peer="`+name(third)+`"}`, is(0))
	w.open(third)

	leaders, _ := w.nodes[follower].sample("leader_changes_total")
	term, _ := w.nodes[follower].sample("term")
	epoch, _ := w.nodes[follower].sample("epoch")
	w.kill(leader)
	for series, least := range map[string]float64{"leader_changes_total": leaders, "term": term, "epoch": epoch} {
		w.until(follower, series, above(least))
	}
	s.more(100)
	s.end()
	w.kill(third)
	w.until(follower, "leader_known", is(0))
	c, err := w.dial(follower)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, err := c.do("GET", "k"); err == nil || !strings.HasPrefix(err.Error(), "-LOADING") {
		t.Errorf("without a leader: %v", err)
	}
	w.until(follower, "clients_without_leader_total", above(0))
}

// A client that reads nothing is seen in what is held.
func TestHeldIsSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.do("SETRANGE", "big", fmt.Sprint(8<<20), "x")
	c, err := w.dial(0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for range 10 {
		if _, err := c.conn.Write([]byte("*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	w.until(0, "held_bytes", above(100_000))
}

func (w *world) killEngine(i int) {
	w.t.Helper()
	p, err := os.FindProcess(w.nodes[i].Status(w.t.Context()).Engine.Pid)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		w.t.Fatal(err)
	}
}

// Health tells the truth: a node alone is alive and not ready, whatever it was before.
func TestHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	for i := range w.nodes {
		w.eventually(w.nodes[i].name+" is ready", func() bool { return w.nodes[i].get("/readyz").Code == 200 })
	}
	leader := w.leader()
	alone := (leader + 1) % 3
	w.kill(leader)
	w.eventually("another is ready", func() bool { return w.nodes[alone].get("/readyz").Code == 200 })
	w.kill((leader + 2) % 3)
	said := struct {
		Status string
		Checks map[string]string
	}{}
	w.eventually("it is not ready alone", func() bool {
		rec := w.nodes[alone].get("/readyz")
		return rec.Code == 503 && json.Unmarshal(rec.Body.Bytes(), &said) == nil && said.Checks["leader"] != "ok"
	})
	if said.Status != "unavailable" || said.Checks["log"] != "ok" {
		t.Errorf("it says %+v", said)
	}
	if code := w.nodes[alone].get("/livez").Code; code != 200 {
		t.Errorf("it is said to be dead: %d", code)
	}
	if code := w.nodes[alone].get("/").Code; code != 404 {
		t.Errorf("/: %d", code)
	}
	var ops replica.Ops
	ops.Set(nil, "the disk is full")
	for path, want := range map[string]int{"/livez": 200, "/readyz": 503, "/metrics": 503} {
		rec := httptest.NewRecorder()
		ops.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if rec.Code != want || want == 503 && !strings.Contains(rec.Body.String(), "the disk is full") {
			t.Errorf("without a node: %s: %d %s", path, rec.Code, rec.Body)
		}
	}
}

// A node whose engine stands still is not ready, and says so.
func TestHealthOfTheEngine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	thaw := freeze(t, w.status().Engine.Pid)
	defer thaw()
	w.until(0, "engine_up", is(0))
	w.eventually("not ready", func() bool {
		rec := w.nodes[0].get("/readyz")
		return rec.Code == 503 && strings.Contains(rec.Body.String(), "does not answer")
	})
	thaw()
	w.eventually("ready", func() bool { return w.nodes[0].get("/readyz").Code == 200 })
}

// exported are the names of a node's own metrics.
func (m *member) exported() (names []string) {
	for line := range strings.Lines(m.get("/metrics").Body.String()) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			if name, _, _ := strings.Cut(rest, " "); strings.HasPrefix(name, "holdfast_node_") {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}
