package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/redis/go-redis/v9"
)

// members is how many processes a crowd has.
const members = 8

// rush is what the callers of one name have seen, together or in one process.
type rush struct {
	All, Handed int64           // acquisitions; those of another caller than the last one
	Longest     time.Duration   // wait
	Delays      []time.Duration // from the release to the next caller's having it

	took     time.Duration
	commands int64
}

// add counts another process.
func (r *rush) add(o rush) {
	r.All, r.Handed, r.Longest = r.All+o.All, r.Handed+o.Handed, max(r.Longest, o.Longest)
	r.Delays = append(r.Delays, o.Delays...)
}

// blackboard is what processes tell each other in memory that they share.
type blackboard struct {
	last     atomic.Int64 // who had the name last
	released atomic.Int64 // when it was given back, ns of the machine's clock
	times    atomic.Int64 // how often somebody had it
}

func openBlackboard(t *testing.T, path string) *blackboard {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	m, err := syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(m) })
	return (*blackboard)(unsafe.Pointer(&m[0]))
}

// want has callers want one name for d. The first of them has the number first.
func want(t *testing.T, take taker, b *blackboard, name string, first, callers int64, d time.Duration) (seen rush) {
	ctx, stop := context.WithTimeout(t.Context(), d)
	defer stop()
	var mu sync.Mutex
	var done sync.WaitGroup
	for i := first; i < first+callers; i++ {
		done.Go(func() {
			var mine rush
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				seen.add(mine)
			}()
			for ctx.Err() == nil {
				asked := time.Now()
				release, err := take(ctx, name)
				had := time.Now()
				mine.Longest = max(mine.Longest, had.Sub(asked))
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				if b.last.Swap(i) != i {
					mine.Handed++
				}
				b.times.Add(1)
				if mine.All++; b.released.Load() > asked.UnixNano() {
					mine.Delays = append(mine.Delays, had.Sub(time.Unix(0, b.released.Load())))
				}
				b.released.Store(time.Now().UnixNano())
				release()
			}
		})
	}
	done.Wait()
	return seen
}

// task is one turn of a member. Tasks come on its standard input, and what it has seen goes to its
// standard output; it ends with its input.
type task struct {
	Name    string
	First   int64
	Callers int64
	For     time.Duration
}

const memberEnv, memberPath, memberBoard = "HOLDFAST_BENCH_LOCKER", "HOLDFAST_BENCH_REDIS", "HOLDFAST_BENCH_BOARD"

// TestCrowdMember is one process of a crowd, and nothing by itself.
func TestCrowdMember(t *testing.T) {
	i := slices.IndexFunc(lockers, func(k locker) bool { return k.name == os.Getenv(memberEnv) })
	if i < 0 {
		t.Skip("it is for the table")
	}
	take, b := lockers[i].open(t, os.Getenv(memberPath)), openBlackboard(t, os.Getenv(memberBoard))
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var next task
		if err := in.Decode(&next); err != nil {
			if err != io.EOF {
				t.Error(err)
			}
			return
		}
		if err := out.Encode(want(t, take, b, next.Name, next.First, next.Callers, next.For)); err != nil {
			t.Fatal(err)
		}
	}
}

// crowd is the processes that want a name.
type crowd struct {
	board  *blackboard
	redis  *redis.Client
	locker locker
	in     [members]*json.Encoder
	out    [members]*json.Decoder
}

func newCrowd(t *testing.T, k locker, path string) *crowd {
	board := filepath.Join(t.TempDir(), "board")
	c := &crowd{board: openBlackboard(t, board), redis: goRedis(t, path), locker: k}
	for i := range members {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestCrowdMember$")
		cmd.Env = append(os.Environ(), memberEnv+"="+k.name, memberPath+"="+path, memberBoard+"="+board)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = in.Close() // by which it ends
			_, _ = io.Copy(io.Discard, out)
			if err := cmd.Wait(); err != nil {
				t.Errorf("a process of the crowd: %v", err)
			}
		})
		c.in[i], c.out[i] = json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))
	}
	return c
}

// rush has so many callers, the same number in each process, want one name for d.
func (c *crowd) rush(t *testing.T, callers int64, d time.Duration) (all rush) {
	before := c.sent(t)
	c.board.last.Store(-1)
	began := time.Now()
	each := callers / members
	for i, in := range c.in {
		if err := in.Encode(task{"one name of " + c.locker.name, int64(i) * each, each, d}); err != nil {
			t.Fatal(err)
		}
	}
	for _, out := range c.out {
		var seen rush
		if err := out.Decode(&seen); err != nil {
			t.Fatal(err)
		}
		all.add(seen)
	}
	all.took, all.commands = time.Since(began), c.sent(t)-before
	return all
}

// sent is how many commands of those that the locker sends the engine has seen.
func (c *crowd) sent(t *testing.T) (n int64) {
	info, err := c.redis.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(info) {
		for _, name := range c.locker.sends {
			var calls int64
			if rest, ok := strings.CutPrefix(line, "cmdstat_"+name+":"); ok {
				if _, err := fmt.Sscanf(rest, "calls=%d,", &calls); err != nil {
					t.Fatal(err)
				}
				n += calls
			}
		}
	}
	return n
}

// crowded is a group over what a rush of 64 callers has seen.
func crowded(title, unit, note string, seen func(rush) float64) group {
	return group{title: title, unit: unit, note: note, open: func(t *testing.T) (rows []*measure) {
		path := redisPath(t)
		for _, k := range lockers {
			c := newCrowd(t, k, path)
			m := &measure{name: k.name, of: "rueidislock", run: func(t *testing.T, d time.Duration) float64 {
				return seen(c.rush(t, 64, d))
			}}
			if m.name == m.of {
				m.of = ""
			}
			rows = append(rows, m)
		}
		return rows
	}}
}

var handOffGroup = crowded("A lock that 64 callers want", "hand-offs to another caller/s",
	"64 callers in eight processes take one name and give it back at once. Only what goes to another caller counts.",
	func(r rush) float64 { return float64(r.Handed) / r.took.Seconds() })

var fairGroup = crowded("The longest wait for that lock", "hundredths of a fair share",
	"The longest wait of all callers in a turn, beside what each would wait if all had equal shares (100). A caller that had "+
		"nothing counts with the whole turn.",
	func(r rush) float64 {
		return 100 * float64(r.Longest) / (float64(r.took) * 64 / float64(max(r.All, 1)))
	})

var commandsGroup = crowded("What that lock asks of the engine", "hundredths of a command an acquisition",
	"Commands that all processes have sent, for each time that a caller had the name: 200 is one to take it and one to give "+
		"it back.",
	func(r rush) float64 { return 100 * float64(r.commands) / float64(max(r.All, 1)) })

var herdGroup = group{
	title: "A lock that a thousand callers want", unit: "µs",
	note: "A thousand callers in eight processes. From before one gives the name back until the next one has it, by the " +
		"machine's clock.",
	open: func(t *testing.T) (rows []*measure) {
		path := redisPath(t)
		for _, callers := range []int64{1000, 64} {
			c := newCrowd(t, lockers[0], path)
			var delays []time.Duration
			at := func(q float64) float64 {
				if len(delays) == 0 {
					return 0
				}
				return float64(delays[int(q*float64(len(delays)-1))].Microseconds())
			}
			rows = append(rows,
				&measure{name: fmt.Sprintf("99th percentile, %d callers", callers), run: func(t *testing.T, d time.Duration) float64 {
					delays = c.rush(t, callers, d).Delays
					slices.Sort(delays)
					return at(0.99)
				}},
				&measure{name: fmt.Sprintf("median, %d callers", callers), run: func(*testing.T, time.Duration) float64 { return at(0.5) }})
		}
		return rows
	},
}

var handOffAllocs = group{
	title: "What a hand-off allocates", unit: "allocations",
	note: "One process. From one who gives a name back to the next one who has it, and all that the others do meanwhile.",
	open: func(t *testing.T) (rows []*measure) {
		path := redisPath(t)
		for _, waiters := range []int64{1, 1000} {
			take, b := lockers[0].open(t, path), &blackboard{}
			rows = append(rows, &measure{name: fmt.Sprintf("waiters: %d", waiters), of: "waiters: 1", run: func(t *testing.T, d time.Duration) float64 {
				return allocations(t, take, b, fmt.Sprintf("a name with %d", waiters), waiters+1, d)
			}})
		}
		rows[0].of = ""
		return rows
	},
}

// allocations is how many one acquisition costs, in the second third of d: before it callers come, and
// after it they go.
func allocations(t *testing.T, take taker, b *blackboard, name string, callers int64, d time.Duration) float64 {
	var before, after runtime.MemStats
	done := make(chan struct{})
	go func() {
		defer close(done)
		want(t, take, b, name, 0, callers, d)
	}()
	time.Sleep(d / 3)
	runtime.ReadMemStats(&before)
	from := b.times.Load()
	time.Sleep(d / 3)
	runtime.ReadMemStats(&after)
	times := b.times.Load() - from
	<-done
	return float64(after.Mallocs-before.Mallocs) / float64(max(times, 1))
}
