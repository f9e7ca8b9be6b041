package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// TestConformance is what every engine must do alike. The keys of a case are its own.
func TestConformance(t *testing.T) {
	storetest.Each(t, conform)
}

func conform(t *testing.T, s *store.Store) { conformThrough(t, s, func() {}) }

// conformThrough has a fault in the middle of the suite.
func conformThrough(t *testing.T, s *store.Store, fault func()) {
	names, all := map[string]bool{}, slices.Concat(tables, behaviours)
	for i, c := range all {
		if i == len(all)/2 {
			fault()
		}
		if names[c.name] {
			t.Fatalf("two cases are called %s", c.name)
		}
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			c.run(t, s, "{"+c.name+"}:key")
			if t.Failed() {
				t.Log("why it matters:", c.why)
			}
		})
	}
}

type conformance struct {
	name, why string
	run       func(t *testing.T, s *store.Store, key string)
}

// table makes a case of lines "op args → reply". Words are separated by spaces, "" is the
// empty word, and "error" as the reply stands for store.ErrWrongType.
func table(name, why string, lines ...string) conformance {
	return conformance{name, why, func(t *testing.T, s *store.Store, key string) {
		for i, line := range lines {
			ask, want, ok := strings.Cut(line, "→")
			if !ok {
				t.Fatalf("line %d has no reply: %s", i+1, line)
			}
			args := words(ask)
			got, err := do(t, s, key, args[0], args[1:]...)
			if strings.TrimSpace(want) == "error" {
				if !errors.Is(err, store.ErrWrongType) {
					t.Fatalf("line %d: %s: got %q, %v; want ErrWrongType", i+1, line, got, err)
				}
				continue
			}
			if err != nil || !slices.Equal(got, words(want)) {
				t.Fatalf("line %d: %s: got %q, %v", i+1, line, got, err)
			}
		}
	}}
}

func words(s string) []string {
	all := strings.Fields(s)
	for i, w := range all {
		if w == `""` {
			all[i] = ""
		}
	}
	return all
}

// Numbers at the ends of what is exact.
var (
	most  = strconv.Itoa(store.MaxInt)
	least = strconv.Itoa(store.MinInt)
)

var tables = []conformance{
	table("missing", "a body reads keys that nobody has written yet",
		"type → none", "get → (none)", "int → 0", "deadline → (none)", "del → 0", "expire forever → 0",
		"hget f → (none)", "hint f → 0", "hlen → 0", "hall →", "hdel f g → 0",
		"zscore m → (none)", "zcard → 0", "zcount 0 10 → 0", "zrange 0 10 5 →", "zrem m n → 0", "zremrange 0 10 → 0"),
	table("strings", "a value comes back as it went in",
		"set a forever →", "get → a", "type → string", "set b forever →", "get → b",
		`set "" forever →`, `get → ""`, "type → string", "del → 1", "type → none"),
	table("integers", "counters count from nothing and below zero",
		"incr 5 → 5", "incr -7 → -2", "int → -2", "get → -2", "set 40 forever →", "incr 2 → 42", "hincr f 3 → error"),
	table("wide-integers", "no digit is lost up to 2^53, in strings, fields and scores",
		"set "+most+" forever →", "int → "+most, "incr -1 → 9007199254740991", "incr 1 → "+most,
		"del → 1", "set "+least+" forever →", "int → "+least, "incr 1 → -9007199254740991",
		"del → 1", "hset f 9007199254740991 →", "hincr f 1 → "+most, "hint f → "+most,
		"del → 1", "zadd "+most+" top → 1", "zadd "+least+" bottom → 1", "zadd 9007199254740991 below → 1",
		"zscore top → "+most, "zscore bottom → "+least,
		"zrange "+least+" "+most+" 9 → bottom="+least+" below=9007199254740991 top="+most,
		"zcount 9007199254740991 9007199254740991 → 1", "zcount "+most+" "+most+" → 1"),
	table("set-replaces", "SET does not ask what was there",
		"hset f v →", "expire 60000000 → 1", "set a forever →", "get → a", "deadline → (none)",
		"del → 1", "zadd 1 m → 1", "set b forever →", "type → string"),
	table("hashes", "fields are counted and replaced",
		"hset f 1 →", "hset g x →", "hset f 2 →", "hlen → 2", "hget f → 2", "hget none → (none)",
		"hall → f=2 g=x", "hincr f 5 → 7", "hincr new -1 → -1", "hlen → 3", "type → hash",
		"hdel f none → 1", "hlen → 2", "hall → g=x new=-1"),
	table("hash-vanishes", "an empty hash is no key, and its deadline does not wait for the next one",
		"hset f 1 →", "expire 60000000 → 1", "hdel f none → 1", "type → none", "hlen → 0", "hset g 2 →",
		"deadline → (none)", "hall → g=2"),
	table("zset-vanishes", "an empty set is no key, however it became empty",
		"zadd 1 a → 1", "expire 60000000 → 1", "zrem a a → 1", "type → none", "zadd 1 b → 1", "deadline → (none)",
		"zremrange 0 9 → 1", "type → none", "zcard → 0"),
	table("zset-order", "by score, and at equal scores by the bytes of the name",
		"zadd 5 b → 1", "zadd 5 a → 1", "zadd 5 B → 1", "zadd -3 z → 1", "zadd 0 m → 1", "zadd 5 aa → 1",
		"zrange -9 9 9 → z=-3 m=0 B=5 a=5 aa=5 b=5", "zrange -9 9 3 → z=-3 m=0 B=5", "zrange 5 5 2 → B=5 a=5"),
	table("zset-moves", "a member has one score",
		"zadd 1 m → 1", "zadd 9 m → 0", "zadd 9 m → 0", "zscore m → 9", "zcard → 1", "zrange 0 5 9 →", "zcount 9 9 → 1",
		"zadd -9 m → 0", "zrange -10 10 9 → m=-9", "zrem m n → 1", "zscore m → (none)"),
	table("zset-edges", "both ends of a range belong to it",
		"zadd 1 a → 1", "zadd 2 b → 1", "zadd 3 c → 1", "zadd 4 d → 1",
		"zcount 2 3 → 2", "zcount 1 4 → 4", "zcount 2 2 → 1", "zcount 5 9 → 0", "zcount 3 2 → 0", "zcount -9 0 → 0",
		"zcount "+least+" "+most+" → 4", "zcount "+least+" 1 → 1", "zcount 4 "+most+" → 1",
		"zrange 2 3 9 → b=2 c=3", "zrange 3 2 9 →", "zremrange 2 3 → 2", "zremrange 3 2 → 0",
		"zrange "+least+" "+most+" 9 → a=1 d=4", "zcard → 2"),
	table("odd-names", "fields and members are bytes; the empty one is one of them",
		`hset "" v →`, `hget "" → v`, "hset a\x00b w →", "hget a\x00b → w", "hset a x →", "hlen → 3", "del → 1",
		`zadd 1 "" → 1`, "zadd 1 \x00 → 1", "zadd 1 \xff\xfe → 1", "zadd 1 é → 1",
		"zrange 1 1 9 → =1 \x00=1 é=1 \xff\xfe=1", "zrem \"\" x → 1", "zcard → 3"),
	table("expire", "deadlines are set, kept and taken away",
		"set a 60000000 →", "expire keep → 1", "set b keep →", "get → b", "expire forever → 1", "deadline → (none)",
		"expire -2000 → 1", "type → none", "set c forever →", "set d -2000 →", "get → (none)",
		"set e forever →", "set f keep →", "deadline → (none)", "get → f"),
	table("wrong-type-string", "a body that meets another type must not go on",
		"set a forever →", "hget f → error", "hset f v → error", "hincr f 1 → error", "hdel f g → error", "hlen → error", "hall → error",
		"zadd 1 m → error", "zscore m → error", "zrem m n → error", "zcard → error", "zcount 0 1 → error", "zrange 0 1 1 → error",
		"zremrange 0 1 → error", "get → a", "type → string"),
	table("wrong-type-hash", "a body that meets another type must not go on",
		"hset f v →", "get → error", "incr 1 → error", "zadd 1 m → error", "zcard → error", "hall → f=v", "type → hash"),
	table("wrong-type-zset", "a body that meets another type must not go on",
		"zadd 1 m → 1", "get → error", "incr 1 → error", "hset f v → error", "hall → error", "zrange 0 9 9 → m=1"),
}

var behaviours = []conformance{
	{"del-many", "keys of several types go at once, each counted", func(t *testing.T, s *store.Store, key string) {
		must(t, s, key, "hset", "f", "v")
		must(t, s, key+":2", "zadd", "1", "m")
		if got := must(t, s, key, "del"); got[0] != "2" {
			t.Errorf("deleted %s", got)
		}
	}},
	{"neighbours", "a key whose name begins with another's is another key", func(t *testing.T, s *store.Store, key string) {
		for _, k := range []string{key, key + "a", key + "ab"} {
			must(t, s, k, "hset", "f"+k, "v")
			must(t, s, k+":z", "zadd", "1", "m"+k)
		}
		must(t, s, key, "del")
		must(t, s, key+":z", "zremrange", least, most)
		if got := must(t, s, key+"a", "hall"); len(got) != 1 {
			t.Errorf("hash beside: %q", got)
		}
		if got := must(t, s, key+"ab:z", "zcard"); got[0] != "1" {
			t.Errorf("set beside: %q", got)
		}
	}},
	{"until", "a deadline is rounded up to milliseconds: never early", func(t *testing.T, s *store.Store, key string) {
		before := micros(t, s)
		must(t, s, key, "set", "v", "5000001")
		after := micros(t, s)
		got := number10(t, must(t, s, key, "deadline"))
		if low, high := ceilMS(before+5_000_001), ceilMS(after+5_000_001); got < low || got > high {
			t.Errorf("deadline %d, not in %d..%d", got, low, high)
		}
	}},
	{"expires", "what has a deadline goes, whatever its type, and what comes after is new", expires},
	{"clock", "bodies take time from the engine, and it does not go back", func(t *testing.T, s *store.Store, key string) {
		last := int64(0)
		for range 50 {
			now := micros(t, s)
			if now < last {
				t.Fatalf("%d after %d", now, last)
			}
			last = now
		}
		if off := time.Since(time.UnixMicro(last)).Abs(); off > time.Minute {
			t.Errorf("the clock is %s off", off)
		}
	}},
	{"fields-travel", "In and Out are the whole encoding", fieldsTravel},
	{"command", "a single command decides without a script", func(t *testing.T, s *store.Store, key string) {
		for i := range int64(3) {
			out, err := count.Do(t.Context(), s, countIn{key, 7})
			if err != nil || out.N != 7*(i+1) {
				t.Fatalf("%+v, %v", out, err)
			}
		}
	}},
	{"range-refused", "an integer that Lua would round is refused before it is sent", func(t *testing.T, s *store.Store, key string) {
		for _, n := range []int64{store.MaxInt + 1, store.MinInt - 1} {
			if _, err := count.Do(t.Context(), s, countIn{key, n}); !errors.Is(err, store.ErrRange) {
				t.Errorf("%d: %v", n, err)
			}
		}
		if got := must(t, s, key, "type"); got[0] != "none" {
			t.Errorf("it was written: %q", got)
		}
	}},
	{"slot-refused", "keys of two slots work on no cluster, so they work nowhere", func(t *testing.T, s *store.Store, key string) {
		_, err := op.Do(t.Context(), s, opIn{Key: key, Other: "{elsewhere}", Op: "set", Args: []string{"v", "forever"}})
		if !errors.Is(err, store.ErrSlot) {
			t.Errorf("got %v", err)
		}
		if got := must(t, s, key, "type"); got[0] != "none" {
			t.Errorf("it was written: %q", got)
		}
	}},
	{"keys-list", "a decision may have as many keys as its caller likes, one at least, all of one slot", keysList},
	{"atomic", "decisions on one key happen one after the other", atomically},
	{"notify", "what is published after Subscribe has returned is heard, in order, and nothing else", notify},
	{"notify-nobody", "publishing to nobody is no error", func(t *testing.T, s *store.Store, key string) {
		must(t, s, key, "notify", "hello")
	}},
	{"context-over", "a call that was given up before it began has written nothing", func(t *testing.T, s *store.Store, key string) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := count.Do(ctx, s, countIn{key, 1})
		if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if got := must(t, s, key, "type"); got[0] != "none" {
			t.Errorf("it was written: %q", got)
		}
	}},
	{"ping", "readiness asks the engine", func(t *testing.T, s *store.Store, _ string) {
		if err := s.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	}},
}

// expires waits for real deadlines; the borders of a millisecond are TestBodiesAgree's.
func expires(t *testing.T, s *store.Store, key string) {
	kinds := map[string][]string{
		"string": {"set", "v", "forever"}, "hash": {"hset", "f", "v"}, "zset": {"zadd", "1", "m"},
	}
	for kind, args := range kinds {
		k := key + kind
		must(t, s, k, args[0], args[1:]...)
		if got := must(t, s, k, "expire", "30000"); got[0] != "1" {
			t.Errorf("%s: no deadline was set", kind)
		}
		within(t, 5*time.Second, kind+" is gone", func() bool { return must(t, s, k, "type")[0] == "none" })
		if got := must(t, s, k, "deadline"); got[0] != none {
			t.Errorf("%s: deadline %s is left", kind, got)
		}
		must(t, s, k, "hset", "new", "1")
		if got := must(t, s, k, "hall"); !slices.Equal(got, []string{"new=1"}) {
			t.Errorf("%s: after it expired: %q", kind, got)
		}
		if got := must(t, s, k, "deadline"); got[0] != none {
			t.Errorf("%s: the new one inherits deadline %s", kind, got)
		}
	}
}

type countIn struct {
	Key string `store:"key"`
	By  int64
}

type countOut struct{ N int64 }

var count = store.Decide("test.count", store.Command("INCRBY"), func(tx *store.Tx, in countIn) countOut {
	return countOut{tx.Incr(in.Key, in.By)}
})

type travelIn struct {
	Text    string
	Key     string `store:"key"`
	N       int64
	Yes, No bool
	Channel string `store:"channel"`
	Rest    []string
}

type travelOut struct {
	N       int64
	Yes, No bool
	Text    string
	Rest    []string
	Empty   string
}

const travelLua = `
local rest = {}
for i = 6, #ARGV do rest[#rest + 1] = ARGV[i] end
return {tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[1], rest, ''}`

var travel = store.Decide("test.travel", store.Lua(travelLua), func(_ *store.Tx, in travelIn) travelOut {
	return travelOut{in.N, in.Yes, in.No, in.Text, in.Rest, ""}
})

func fieldsTravel(t *testing.T, s *store.Store, key string) {
	for _, in := range []travelIn{
		{Text: "a", N: 1, Yes: true},
		{Text: "", N: store.MaxInt, Yes: true, Rest: []string{"one"}},
		{Text: "b\x00\r\n\xff é", N: store.MinInt, Yes: true, Rest: []string{"", "two", "\x00"}},
		{Text: strings.Repeat("x", 100_000), Yes: true, Rest: slices.Repeat([]string{"y"}, 1000)},
	} {
		in.Key, in.Channel = key, "c"
		got, err := travel.Do(t.Context(), s, in)
		want := travelOut{in.N, true, false, in.Text, in.Rest, ""}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%.80v became %.80v, %v", want, got, err)
		}
	}
}

type keysIn struct {
	First string   `store:"key"`
	More  []string `store:"key"`
	By    int64
	Rest  []string
}

type keysOut struct {
	Sums []string
	Rest []string
}

const keysLua = `
local sums, rest = {}, {}
for i, key in ipairs(KEYS) do sums[i] = redis.call('INCRBY', key, ARGV[1]) end
for i = 2, #ARGV do rest[#rest + 1] = ARGV[i] end
return {sums, rest}`

var keys = store.Decide("test.keys", store.Lua(keysLua), func(tx *store.Tx, in keysIn) keysOut {
	out := keysOut{Rest: in.Rest}
	for _, key := range append([]string{in.First}, in.More...) {
		out.Sums = append(out.Sums, strconv.FormatInt(tx.Incr(key, in.By), 10))
	}
	return out
})

func keysList(t *testing.T, s *store.Store, key string) {
	for _, in := range []keysIn{
		{key, []string{key + "1", key + "2"}, 5, []string{"a", "b"}}, {key, nil, 1, nil}, {key, []string{key + "2", key + "3"}, 2, []string{"c"}},
	} {
		if _, err := keys.Do(t.Context(), s, in); err != nil {
			t.Error(err)
		}
	}
	out, err := keys.Do(t.Context(), s, keysIn{key, []string{key + "1", key + "2", key + "3"}, 0, []string{"d"}})
	if got, want := fmt.Sprint(out, err), "{[8 5 7 2] [d]} <nil>"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
	if _, err := keys.Do(t.Context(), s, keysIn{key, []string{"{elsewhere}"}, 1, nil}); !errors.Is(err, store.ErrSlot) {
		t.Errorf("a list of two slots: %v", err)
	}
}

func atomically(t *testing.T, s *store.Store, key string) {
	const callers, times = 8, 40
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range times {
				out, err := count.Do(t.Context(), s, countIn{key, 1})
				mu.Lock()
				if err != nil || seen[out.N] {
					t.Errorf("%+v twice, or %v", out, err)
				}
				seen[out.N] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if got := must(t, s, key, "int"); got[0] != strconv.Itoa(callers*times) {
		t.Errorf("%s of %d", got, callers*times)
	}
}

func notify(t *testing.T, s *store.Store, key string) {
	heard := make(chan string, 100)
	cancel, err := s.Subscribe(t.Context(), "news", func(payload string) { heard <- payload })
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	_, err = op.Do(t.Context(), s, opIn{Key: key, Other: key, Op: "notify", Channel: "other", Args: []string{"not for us"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"first", "", "b\x00\xff", "last"}
	for _, payload := range want {
		must(t, s, key, "notify", payload)
	}
	for _, payload := range want {
		if got := receive(t, heard); got != payload {
			t.Fatalf("heard %q, not %q", got, payload)
		}
	}
	cancel()
	cancel() // a second time does nothing
	// A later listener hears what the first no longer does.
	again := make(chan string, 1)
	cancel2, err := s.Subscribe(t.Context(), "news", func(payload string) { again <- payload })
	if err != nil {
		t.Fatal(err)
	}
	defer cancel2()
	must(t, s, key, "notify", "later")
	if got := receive(t, again); got != "later" {
		t.Errorf("heard %q", got)
	}
	if len(heard) != 0 {
		t.Errorf("a cancelled listener heard %q", <-heard)
	}
}

func receive(t *testing.T, from <-chan string) string {
	t.Helper()
	select {
	case s := <-from:
		return s
	case <-time.After(5 * time.Second):
		t.Fatal("nothing was heard")
		return ""
	}
}

// within polls: a state that must come soon, and a test that never sleeps for it.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

type nowIn struct {
	Key string `store:"key"`
}

type nowOut struct{ Now int64 }

var now = store.Decide("test.now", store.Lua(`
local t = redis.call('TIME')
return {tonumber(t[1]) * 1000000 + tonumber(t[2])}`), func(tx *store.Tx, _ nowIn) nowOut { return nowOut{tx.Now()} })

func micros(t *testing.T, s *store.Store) int64 {
	t.Helper()
	out, err := now.Do(t.Context(), s, nowIn{"{clock}"})
	if err != nil {
		t.Fatal(err)
	}
	return out.Now
}

func ceilMS(us int64) int64 { return (us + 999) / 1000 }

func number10(t *testing.T, reply []string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(reply[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
