package drill

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"
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
	for _, c := range []struct {
		net string
		o   FailoverOptions
	}{
		{netAuto, FailoverOptions{Rounds: 1}},
		{netProxies, FailoverOptions{Rounds: 1, Net: netProxies}},
	} {
		t.Run(c.net, func(t *testing.T) {
			temporary(t)
			c.o.Binary = bin
			r, err := Failover(t.Context(), c.o)
			if err != nil {
				t.Fatal(err)
			}
			mustPass(t, r)
			nothingLeft(t)
			f := r.Figures.(FailoverFigures)
			if f.Commands < c.o.Rounds*leastCommands || len(f.Dealt) != c.o.Rounds {
				t.Errorf("%+v", f)
			}
			if c.net == netProxies && f.Net != netProxies {
				t.Errorf("it ran on %s", f.Net)
			}
			noNetworkLeft(t)
		})
	}
}

// noNetworkLeft: what the drill's networks were made of has gone with them.
func noNetworkLeft(t *testing.T) {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Name == "drill0" || strings.HasPrefix(i.Name, "near") {
			t.Errorf("%s was left behind", i.Name)
		}
	}
}

// Five nodes, and a partition that only they can have.
func TestFailoverFive(t *testing.T) {
	needEngine(t)
	bin := program(t, "")
	temporary(t)
	r, err := Failover(t.Context(), FailoverOptions{Binary: bin, Rounds: 1, Nodes: 5, Faults: []string{"leader-with-minority"}})
	if err != nil {
		t.Fatal(err)
	}
	mustPass(t, r)
	nothingLeft(t)
	if f := r.Figures.(FailoverFigures); f.Faults["leader-with-minority"] != 1 {
		t.Errorf("%v happened", f.Faults)
	}
}

// The same storm loses nothing here, and loses there.
func TestFailoverAgainstSentinel(t *testing.T) {
	needEngine(t)
	bin := program(t, "")
	temporary(t)
	for range 4 { // in a round Sentinel may have nothing to lose: what was stuck in the partition can arrive after it
		r, err := Failover(t.Context(), FailoverOptions{Binary: bin, Rounds: 2, Against: againstSentinel, Faults: []string{"isolate-leader"}})
		if err != nil {
			t.Fatal(err)
		}
		mustPass(t, r)
		if r.Figures.(FailoverFigures).Net != netNamespaces {
			t.Skip("engines without a node before them can only be parted in network namespaces")
		}
		if theirs := r.Against.Figures.(FailoverFigures); !r.Against.Passed() && theirs.Missing > 0 {
			return
		}
		t.Logf("Sentinel lost nothing: %+v", r.Against)
	}
	t.Error("Sentinel never lost anything")
}

// What switches a protection off is seen within a few rounds, most of it in the first one. (That syncs are left out no
// process can show, for the kernel keeps what was written when one is killed: package replica's test of a power loss does.)
func TestFailoverMutants(t *testing.T) {
	t.Parallel()
	needEngine(t)
	for _, c := range []struct {
		name, why string
		faults    []string
	}{
		{"mutant_gateoff", "replies pass unheld", []string{"isolate-leader", "kill-leader"}},
		{"mutant_early", "replies pass when they are proposed", []string{"isolate-leader", "nobody-hears-leader"}},
		{"mutant_nofullsync", "an engine goes on with what was never committed", []string{"isolate-leader", "nobody-hears-leader"}},
		{"mutant_noverify", "a leader answers reads without asking whether it leads", []string{"wake-isolated", "late-answers"}},
		{"mutant_lateverify", "answers to earlier questions say that it leads", []string{"late-answers"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // how slow it is does not matter
			bin := program(t, c.name)
			const tries = 5
			for range tries {
				r, err := Failover(t.Context(), FailoverOptions{Binary: bin, Rounds: 4, Faults: c.faults, Net: netProxies})
				if err != nil {
					t.Fatal(err)
				}
				for _, check := range r.Checks {
					if !check.OK && check.Name != "storm-happened" {
						return
					}
				}
			}
			t.Errorf("%s, and it was not noticed", c.why)
		})
	}
}

// The seed alone decides the faults, how long they last, and what clients ask.
func TestFailoverReplays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64Range(1, maxSeed).Draw(t, "seed")
		f := &failover{FailoverOptions: FailoverOptions{Seed: seed, Rounds: rapid.IntRange(1, 60).Draw(t, "rounds")}}
		first, again := f.plan(nodeFaults), f.plan(nodeFaults)
		dealt := map[string]int{}
		for i := range first {
			if first[i].fault.name != again[i].fault.name || first[i].held != again[i].held || first[i].dice != again[i].dice {
				t.Fatalf("round %d is %+v, and then %+v", i, first[i], again[i])
			}
			if dealt[first[i].fault.name]++; dealt[first[i].fault.name] > i/len(nodeFaults)+1 {
				t.Fatalf("%s came again before all others had come", first[i].fault.name)
			}
		}
		s := &nodeStorm{f: f, prefix: "r:"}
		for who := range stormClients {
			one, _ := clientDice(seed, 1, who)
			other, _ := clientDice(seed, 1, who)
			for k := range 50 {
				a, words := s.command(who, k, one)
				b, repeated := s.command(who, k, other)
				if a.kind != b.kind || a.key != b.key || fmt.Sprint(words) != fmt.Sprint(repeated) {
					t.Fatalf("client %d asks %v, and then %v", who, words, repeated)
				}
			}
		}
	})
}

// Only what no sync has covered is torn.
func TestTornTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.SliceOfN(rapid.Byte(), 2, 3000).Draw(t, "before")
		from := rapid.IntRange(0, len(before)-1).Draw(t, "from")
		to := rapid.IntRange(from+1, len(before)).Draw(t, "to")
		if err := os.WriteFile(file, before, 0o600); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "dice"), 0))
		if err := (tornTail{file, int64(from), int64(to)}).tear(rng); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if len(after) < from || !bytes.Equal(after[:from], before[:from]) {
			t.Fatalf("of %d synced bytes some are not there", from)
		}
	})
}

// A client that reads what an engine sent takes all of RESP2 and RESP3, and nothing else ends it badly.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"+OK\r\n", "-ERR no\r\n", ":7\r\n", "$2\r\nab\r\n", "$-1\r\n", "_\r\n", "*2\r\n:1\r\n$1\r\na\r\n",
		"%1\r\n+a\r\n:1\r\n", ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n+PONG\r\n", "*-1\r\n", "$99999999999\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := &respConn{r: bufio.NewReader(strings.NewReader(s)), pushed: func([]any) {}}
		for {
			if _, err := c.answer(); err != nil {
				var no errReply
				if !errors.As(err, &no) {
					return
				}
			}
		}
	})
}

// op is a command of a history that is written by hand: times are its place.
func op(kind, key, value string, answer any, call, ret int64) nodeOp {
	return nodeOp{kind: kind, key: key, value: value, answer: answer, call: time.Unix(call, 0), ret: time.Unix(ret, 0)}
}

func open(o nodeOp) nodeOp {
	o.outcome = unknown
	return o
}

func heard(values ...string) (all []message) {
	for _, v := range values {
		all = append(all, message{v, time.Unix(9, 0)})
	}
	return all
}

// The judges see what is wrong, and nothing where nothing is.
func TestFailoverChecks(t *testing.T) {
	for _, c := range []struct {
		name    string
		ops     []nodeOp
		members map[string][]string
		stream  [][2]string
		heard   []message
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
		{name: "a message that was heard", ops: []nodeOp{op("publish", "n", "a", int64(1), 1, 2)}, heard: heard("a")},
		{name: "a message that was not, and none behind it", ops: []nodeOp{op("publish", "n", "a", int64(1), 1, 2)}},
		{name: "a message that was left out", ops: []nodeOp{op("publish", "n", "a", int64(1), 1, 2), op("publish", "n", "b", int64(1), 3, 4)}, heard: heard("b"), want: "lost"},
		{name: "a message twice", ops: []nodeOp{op("publish", "n", "a", int64(1), 1, 2)}, heard: heard("a", "a"), want: "twice"},
		{name: "a message of nobody", heard: heard("a"), want: "twice"},
		{name: "messages at one time", ops: []nodeOp{op("publish", "n", "a", int64(1), 1, 4), op("publish", "n", "b", int64(1), 2, 3)}, heard: heard("b", "a")},
		{name: "messages in the wrong order", ops: []nodeOp{op("publish", "n", "a", int64(1), 1, 2), op("publish", "n", "b", int64(1), 3, 4)}, heard: heard("b", "a"), want: "order"},
		{name: "gone at last", ops: []nodeOp{op("expire", "e", "a", "OK", 1, 2), op("expget", "e", "", "a", 3, 4), op("expget", "e", "", nil, 5, 6)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &failover{}
			s := &nodeStorm{f: f, ops: c.ops}
			if c.heard != nil {
				s.heard[0] = []session{{time.Unix(0, 0), c.heard}}
			}
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

// An outage leaves many commands without an answer. That does not keep a verdict from being found, or change it.
func TestHistoriesWithManyOpenCommands(t *testing.T) {
	const many = 60
	var counts, sets []nodeOp
	for i := range int64(many) {
		counts = append(counts, open(op("incr", "k", "1", nil, i, i+1)), op("incr", "k", "1", 3*(i/2)+1+i%2, many+2*i, many+2*i+1)) // every third number is lacking
		v := strconv.Itoa(int(i))
		sets = append(sets, open(op("set", "k", "open"+v, nil, i, i+1)), op("set", "k", v, "OK", many+2*i, many+2*i+1))
	}
	all := 3 * int64(many) / 2
	for _, c := range []struct {
		name  string
		model porcupine.Model
		ops   []nodeOp
		then  []nodeOp
		want  porcupine.CheckResult
	}{
		{"a third of the counts is open", counterModel, counts, []nodeOp{op("incrfinal", "k", "", strconv.FormatInt(all-1, 10), 900, 901)}, porcupine.Ok},
		{"all open ones were done at last", counterModel, counts, []nodeOp{op("incrfinal", "k", "", strconv.Itoa(2*many), 900, 901)}, porcupine.Ok},
		{"one more than there can be", counterModel, counts, []nodeOp{op("incrfinal", "k", "", strconv.Itoa(2*many+1), 900, 901)}, porcupine.Illegal},
		{"an answered one is lost", counterModel, counts, []nodeOp{op("incrfinal", "k", "", strconv.FormatInt(all-3, 10), 900, 901)}, porcupine.Illegal},
		{"a count before it was sent", counterModel, []nodeOp{op("incr", "k", "1", int64(2), 1, 2), open(op("incr", "k", "1", nil, 3, 4))}, nil, porcupine.Illegal},
		{"an open write shows late", registerModel, sets, []nodeOp{op("get", "k", "", "open7", 900, 901)}, porcupine.Ok},
		{"two open writes show in turn", registerModel, sets, []nodeOp{op("get", "k", "", "open7", 900, 901), op("get", "k", "", "open5", 902, 903)}, porcupine.Ok},
		{"an open write shows twice", registerModel, sets, []nodeOp{op("get", "k", "", "open7", 900, 901), op("get", "k", "", "open5", 902, 903), op("get", "k", "", "open7", 904, 905)}, porcupine.Illegal},
		{"the last answered write is lost", registerModel, sets, []nodeOp{op("get", "k", "", strconv.Itoa(many-2), 900, 901)}, porcupine.Illegal},
		{"a write shows before it was sent", registerModel, []nodeOp{op("get", "k", "", "a", 1, 2), open(op("set", "k", "a", nil, 3, 4))}, nil, porcupine.Illegal},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			if got := linearizable(c.model, slices.Concat(c.ops, c.then)); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
			if took := time.Since(began); took > checkTime/2 {
				t.Errorf("found in %s", took)
			}
		})
	}
}

// What spares the search changes no verdict: short histories of any kind are judged as by trying every order of all commands.
func TestOpenCommandsChangeNoVerdict(t *testing.T) {
	plain := func(m porcupine.Model, ops []nodeOp) bool {
		var history []porcupine.Operation
		for _, o := range ops {
			ret := o.ret
			if o.outcome == unknown {
				ret = time.Unix(1000, 0)
			}
			history = append(history, porcupine.Operation{ClientId: o.client, Input: o, Call: o.call.UnixNano(), Return: ret.UnixNano()})
		}
		return porcupine.CheckOperations(m, history)
	}
	register := porcupine.Model{Init: registerModel.Init, Step: func(state, in, out any) (bool, any) {
		return registerModel.Step(state, historyOp{nodeOp: in.(nodeOp)}, out)
	}}
	counter := porcupine.Model{Init: func() any { return int64(0) }, Step: func(state, in, _ any) (bool, any) {
		switch o, n := in.(nodeOp), state.(int64); {
		case o.kind != "incr":
			return numberOf(o.answer) == n, n
		default:
			return o.outcome == unknown || numberOf(o.answer) == n+1, n + 1
		}
	}}
	seen := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		counts := rapid.Bool().Draw(t, "counts")
		var ops []nodeOp
		for i := range rapid.IntRange(1, 9).Draw(t, "commands") {
			call := rapid.Int64Range(0, 12).Draw(t, "call")
			ret := call + rapid.Int64Range(1, 6).Draw(t, "takes")
			value, some := strconv.Itoa(rapid.IntRange(1, 3).Draw(t, "value")), rapid.Int64Range(0, 5).Draw(t, "number")
			write := rapid.IntRange(0, 2).Draw(t, "writes") > 0
			var o nodeOp
			switch {
			case counts && write:
				o = op("incr", "k", "1", some, call, ret)
			case counts:
				o = op("incrfinal", "k", "", strconv.FormatInt(some, 10), call, ret)
			case write:
				o = op("set", "k", value, "OK", call, ret)
			default:
				o = op("get", "k", "", value, call, ret)
			}
			if o.client = i; write && rapid.Bool().Draw(t, "open") {
				o = open(o)
				o.answer = nil
			}
			ops = append(ops, o)
		}
		ours, theirs := registerModel, register
		if counts {
			ours, theirs = counterModel, counter
		}
		want := plain(theirs, ops)
		seen[want]++
		if got := linearizable(ours, ops) == porcupine.Ok; got != want {
			t.Fatalf("%v, and by trying every order %v: %+v", got, want, ops)
		}
	})
	if seen[true] < 5 || seen[false] < 5 {
		t.Errorf("one-sided: %v", seen)
	}
}
