package drill

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// needEngine skips where there is none; in CI there has to be one.
func needEngine(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts nodes")
	}
	for _, name := range []string{"valkey-server", "redis-server"} {
		if _, err := exec.LookPath(name); err == nil {
			return
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("neither valkey-server nor redis-server is installed; run scripts/deps")
	}
	t.Skip("neither valkey-server nor redis-server is installed")
}

func TestFailover(t *testing.T) {
	needEngine(t)
	bin := program(t, "")
	temporary(t)
	r, err := Failover(t.Context(), FailoverOptions{Binary: bin, Rounds: 4})
	if err != nil {
		t.Fatal(err)
	}
	mustPass(t, r)
	nothingLeft(t)
	if f := r.Figures.(FailoverFigures); f.Commands < 4*leastCommands {
		t.Errorf("%+v", f)
	}
}

func TestFailoverMutants(t *testing.T) {
	needEngine(t)
	for _, c := range []struct {
		tag, why string
		faults   []string
	}{
		{"mutant_gateoff", "replies pass unheld", []string{"isolate-leader", "kill-leader"}},
		{"mutant_early", "replies pass when they are proposed", []string{"isolate-leader", "nobody-hears-leader"}},
		{"mutant_nofullsync", "an engine goes on with what was never committed", []string{"isolate-leader", "nobody-hears-leader"}},
	} {
		t.Run(c.tag, func(t *testing.T) {
			bin := program(t, c.tag)
			temporary(t)
			r, err := Failover(t.Context(), FailoverOptions{Binary: bin, Rounds: 4, Faults: c.faults})
			if err != nil {
				t.Fatal(err)
			}
			if r.Passed() {
				t.Errorf("%s, and it was not noticed: %+v", c.why, r)
			}
		})
	}
}

// op is a command of a history that is written by hand: times are its place.
func op(kind, key, value string, answer any, call, ret int64) nodeOp {
	return nodeOp{kind: kind, key: key, value: value, answer: answer, call: time.Unix(call, 0), ret: time.Unix(ret, 0)}
}

func open(o nodeOp) nodeOp {
	o.outcome = unknown
	return o
}

// The judges see what is wrong, and nothing where nothing is.
func TestFailoverChecks(t *testing.T) {
	for _, c := range []struct {
		name    string
		ops     []nodeOp
		members map[string][]string
		stream  [][2]string
		final   []nodeOp
		want    string // the finding's kind
	}{
		{name: "a read of what was written", ops: []nodeOp{op("set", "k", "a", "OK", 1, 2), op("get", "k", "", "a", 3, 4)}},
		{name: "a stale read", ops: []nodeOp{op("set", "k", "a", "OK", 1, 2), op("set", "k", "b", "OK", 3, 4), op("get", "k", "", "a", 5, 6)}, want: "order"},
		{name: "a read beside a write", ops: []nodeOp{op("set", "k", "a", "OK", 1, 2), op("set", "k", "b", "OK", 3, 6), op("get", "k", "", "a", 4, 5)}},
		{name: "a lost write", ops: []nodeOp{op("set", "k", "a", "OK", 1, 2)}, final: []nodeOp{op("get", "k", "", nil, 9, 10)}, want: "order"},
		{name: "a write without an answer that was done", ops: []nodeOp{open(op("set", "k", "a", nil, 1, 2))}, final: []nodeOp{op("get", "k", "", "a", 9, 10)}},
		{name: "a write without an answer that was not", ops: []nodeOp{open(op("set", "k", "a", nil, 1, 2))}, final: []nodeOp{op("get", "k", "", nil, 9, 10)}},
		{name: "a count that was done twice", ops: []nodeOp{op("incr", "k", "1", int64(1), 1, 2)}, final: []nodeOp{op("incrfinal", "k", "", "2", 9, 10)}, want: "order"},
		{name: "a count without an answer", ops: []nodeOp{op("incr", "k", "1", int64(1), 1, 2), open(op("incr", "k", "1", nil, 3, 4))}, final: []nodeOp{op("incrfinal", "k", "", "2", 9, 10)}},
		{name: "half a pair", ops: []nodeOp{op("pairget", "k", "", []any{"1", "0"}, 1, 2)}, want: "order"},
		{name: "an element that is there", ops: []nodeOp{op("add", "set", "a", int64(1), 1, 2)}, members: map[string][]string{"set": {"a"}}},
		{name: "an element that is gone", ops: []nodeOp{op("add", "set", "a", int64(1), 1, 2)}, want: "lost"},
		{name: "one that a pop without an answer may have", ops: []nodeOp{op("add", "set", "a", int64(1), 1, 2), open(op("pop", "set", "", nil, 3, 4))}},
		{name: "popped twice", ops: []nodeOp{op("add", "list", "a", int64(1), 1, 2), op("pop", "list", "", "a", 3, 4), op("pop", "list", "", []any{"list", "a"}, 3, 4)}, want: "twice"},
		{name: "popped and there", ops: []nodeOp{op("add", "list", "a", int64(1), 1, 2), op("pop", "list", "", "a", 3, 4)}, members: map[string][]string{"list": {"a"}}, want: "twice"},
		{name: "an entry that is gone", ops: []nodeOp{op("xadd", "stream", "a", "1-1", 1, 2)}, want: "lost"},
		{name: "an entry twice", ops: []nodeOp{op("xadd", "stream", "a", "1-1", 1, 2)}, stream: [][2]string{{"1-1", "a"}, {"1-2", "a"}}, want: "twice"},
		{name: "back from the dead", ops: []nodeOp{op("expire", "e", "a", "OK", 1, 2), op("expget", "e", "", nil, 3, 4), op("expget", "e", "", "a", 5, 6)}, want: "expiry"},
		{name: "gone at last", ops: []nodeOp{op("expire", "e", "a", "OK", 1, 2), op("expget", "e", "", "a", 3, 4), op("expget", "e", "", nil, 5, 6)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &failover{}
			s := &nodeStorm{f: f, ops: c.ops}
			if c.members == nil {
				c.members = map[string][]string{}
			}
			s.judge(0, &finalState{reads: c.final, members: c.members, stream: c.stream}, f)
			for kind, found := range map[string]findings{"lost": f.lost, "order": f.order, "twice": f.twice, "expiry": f.expiry, "happened": f.happened} {
				switch {
				case kind == c.want && len(found) == 0:
					t.Errorf("%s: not seen", kind)
				case kind != c.want && len(found) > 0 && c.name != "half a pair":
					t.Errorf("%s: %v", kind, found)
				}
			}
		})
	}
}
