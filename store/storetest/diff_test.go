package storetest

import (
	_ "embed"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

//go:embed testdata/gcra.lua
var gcraLua string

type takeIn struct {
	TAT    string `store:"key"` // when the bucket is full again, µs
	By     string `store:"key"` // units by taker
	Recent string `store:"key"` // takers of the last second
	Period int64
	Burst  int64
	Cost   int64
	Taker  string
}

type takeOut struct {
	OK   bool
	Wait int64
}

// take uses every type that decisions have, so that a difference in any of them shows.
var take = store.Decide("sample.take", store.Lua(gcraLua), func(tx *store.Tx, in takeIn) takeOut {
	now := tx.Now()
	tat := now
	if v := tx.Int(in.TAT); v > now {
		tat = v
	}
	tat += in.Period * in.Cost
	if wait := tat - now - in.Period*in.Burst; wait > 0 {
		return takeOut{Wait: wait}
	}
	tx.SetInt(in.TAT, tat, store.Until(tat))
	tx.HIncr(in.By, in.Taker, in.Cost)
	tx.ZAdd(in.Recent, now, in.Taker)
	tx.ZRemRange(in.Recent, store.MinInt, now-1_000_000)
	return takeOut{OK: true}
})

func takePlan() Plan {
	return Plan{
		Keys: []string{"{a}:tat", "{a}:by", "{a}:recent", "{b}:tat", "{b}:by", "{b}:recent"},
		Next: func(r *rand.Rand, _ int64) Step {
			bucket := []string{"{a}", "{b}"}[r.IntN(2)]
			return Do(take, takeIn{
				TAT: bucket + ":tat", By: bucket + ":by", Recent: bucket + ":recent",
				Period: 7_300, Burst: 5, Cost: 1 + r.Int64N(3), Taker: string(rune('p' + r.IntN(6))),
			})
		},
	}
}

func TestDiffFindsNoDifferenceWhereThereIsNone(t *testing.T) {
	Diff(t, takePlan())
}

func TestDiffFindsSeededErrors(t *testing.T) {
	DiffFinds(t, takePlan(),
		Mutation{"sample.take", "wait > 0", "wait >= 0"},
		Mutation{"sample.take", "period * burst", "period * burst + 1"},
		Mutation{"sample.take", "math.ceil(tat / 1000)", "math.floor(tat / 1000)"},
		Mutation{"sample.take", "'PXAT'", "'KEEPTTL')--"},
		Mutation{"sample.take", "ARGV[4], ARGV[3]", "ARGV[4], 1"},
		Mutation{"sample.take", "now - 1000000", "now - 500000"},
		Mutation{"sample.take", "* 1000000 +", "* 1000001 +"},
		Mutation{"sample.take", "{1, 0}\n", "{1}\n"},
	)
}

// An error that needs a long way to show is told by its seed and a short way.
func TestDiffShowsTheShortestWay(t *testing.T) {
	d := newDiffer(t, takePlan())
	m := seeded{Mutation: Mutation{"sample.take", "HINCRBY', KEYS[2], ARGV[4], ARGV[3]", "HINCRBY', KEYS[2], ARGV[4], redis.call('HLEN', KEYS[2]) == 5 and 1 or ARGV[3]"}}
	found := d.explore(t, &m)
	if found == nil {
		t.Fatal("not noticed")
	}
	long := len(found.steps)
	text := d.shrink(t, found, &m)
	t.Logf("%d steps became:\n%s", long, text)
	if lines := strings.Count(text, "sample.take"); lines < 6 || lines > 12 {
		t.Errorf("%d steps left; six takers are the fewest", lines)
	}
}

// Keys that nobody compares would make the test blind.
func TestDiffRefusesUnlistedKeys(t *testing.T) {
	p := takePlan()
	p.Keys = p.Keys[:5]
	p.Steps = 50
	d := newDiffer(t, p)
	d.begin(t)
	e := d.newEmbedded(t)
	defer e.close()
	for i := range 50 {
		d.step(t, e.step(t, played{p.Next(rand.New(rand.NewPCG(1, uint64(i))), 0), epoch + int64(i)*int64(time.Millisecond)}), nil)
	}
	if what := d.strangers(t); !strings.Contains(what, "{b}:recent") {
		t.Errorf("strangers: %q", what)
	}
}

func TestDiffSeveral(t *testing.T) { DiffSeveral(t, takePlan()) }
