package flashsale

import (
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/store/storetest"
)

const testKeyLife = 60_000_000 // µs

var testKeys = []string{permitsKey("d"), spentKey("d"), gateKey("d")}

// someID: few, so that steps meet the permits of earlier ones.
func someID(r *rand.Rand) string { return string(rune('a' + r.IntN(9))) }

func someLife(r *rand.Rand) string {
	return []string{forever, "0", "30000", "2000000", "2000001", "90000000"}[r.IntN(6)]
}

func someBuild(r *rand.Rand, now int64) storetest.Step {
	in := buildIn{
		Permits: testKeys[0], Spent: testKeys[1], Gate: testKeys[2], KeyLife: testKeyLife,
		Step: []string{"begin", "begin", "add", "add", "open", "open"}[r.IntN(6)],
		Gen:  []string{"g", "g", "g", "h"}[r.IntN(4)], GivenUp: []string{"", "g", "h"}[r.IntN(3)], Cap: 1 + r.Int64N(4), Opens: now + 200_000*r.Int64N(2),
	}
	for range r.IntN(3) {
		life := someLife(r)
		if r.IntN(3) == 0 {
			life = isSpent
		}
		in.Items = append(in.Items, someID(r), life)
	}
	return storetest.Do(build, in)
}

func someAdmit(r *rand.Rand) storetest.Step {
	return storetest.Do(admit, admitIn{
		Permits: testKeys[0], Spent: testKeys[1], Gate: testKeys[2], KeyLife: testKeyLife,
		ID: someID(r), Life: 1_000_000 + r.Int64N(50_000), Fresh: r.IntN(3) == 0,
	})
}

func someExtend(r *rand.Rand) storetest.Step {
	in := extendIn{Permits: testKeys[0], Spent: testKeys[1], Gate: testKeys[2], KeyLife: testKeyLife}
	for range 1 + r.IntN(3) {
		in.Items = append(in.Items, someID(r), someLife(r))
	}
	return storetest.Do(extend, in)
}

func someGiveBack(r *rand.Rand, now int64) storetest.Step {
	in := giveBackIn{Permits: testKeys[0], Spent: testKeys[1], Gate: testKeys[2], KeyLife: testKeyLife, Answer: r.IntN(2) == 0}
	if r.IntN(4) == 0 {
		in.Only = now // a permit that was extended by 0 just now has this deadline
	}
	for range 1 + r.IntN(3) {
		in.IDs = append(in.IDs, someID(r))
	}
	return storetest.Do(giveBack, in)
}

func gatePlan() storetest.Plan {
	return storetest.Plan{
		Keys: testKeys,
		Next: func(r *rand.Rand, now int64) storetest.Step {
			switch n := r.IntN(20); {
			case n == 0 && r.IntN(2) == 0: // or an open gate would be the only one
				return storetest.Do(forget, forgetIn{testKeys[0], testKeys[1], testKeys[2]})
			case n < 3:
				return someBuild(r, now)
			case n < 10:
				return someAdmit(r)
			case n < 13:
				return someExtend(r)
			case n < 17:
				return someGiveBack(r, now)
			default:
				return storetest.Do(mark, markIn{
					Permits: testKeys[0], Spent: testKeys[1], Gate: testKeys[2],
					Version: now, Known: (now - r.Int64N(100_000)) * r.Int64N(2), Most: 1 + r.Int64N(14),
				})
			}
		},
	}
}

func TestGateOnBothEngines(t *testing.T) { storetest.Diff(t, gatePlan()) }

func TestGateOnSeveralEngines(t *testing.T) { storetest.DiffSeveral(t, gatePlan()) }

func TestGateDifferencesAreNoticed(t *testing.T) {
	storetest.DiffFinds(t, gatePlan(),
		storetest.Mutation{Decision: "flashsale.admit", Old: "live >= tonumber(gate[2])", New: "live > tonumber(gate[2])"},
		storetest.Mutation{Decision: "flashsale.admit", Old: "ARGV[4] ~= '1' and", New: ""},
		storetest.Mutation{Decision: "flashsale.admit", Old: "now < tonumber(gate[3])", New: "now <= tonumber(gate[3]) - 100000"},
		storetest.Mutation{Decision: "flashsale.extend", Old: "tonumber(had) < deadline", New: "tonumber(had) ~= deadline"},
		storetest.Mutation{Decision: "flashsale.extend", Old: "redis.call('ZREM', KEYS[2], id)", New: ""},
		storetest.Mutation{Decision: "flashsale.giveback", Old: "'HINCRBY', KEYS[3], 'version', ended", New: "'HINCRBY', KEYS[3], 'version', 1"},
		storetest.Mutation{Decision: "flashsale.giveback", Old: "tonumber(had) == tonumber(ARGV[2])", New: "true"},
		storetest.Mutation{Decision: "flashsale.mark", Old: "live < tonumber(gate[2])", New: "live <= tonumber(gate[2])"},
		storetest.Mutation{Decision: "flashsale.mark", Old: "'+inf') > tonumber(ARGV[3])", New: "'+inf') >= tonumber(ARGV[3])"},
		storetest.Mutation{Decision: "flashsale.build", Old: "gate[2] ~= ARGV[3] and gate", New: "gate"},
		storetest.Mutation{Decision: "flashsale.build", Old: "and gate[2] ~= ARGV[6]", New: ""},
		storetest.Mutation{Decision: "flashsale.build", Old: "return {0, 1}", New: "return {0, 0}"},
		storetest.Mutation{Decision: "flashsale.build", Old: "ARGV[2] == 'open' and 1 or 0}", New: "0}"},
	)
}

// The rights that package store documents are enough for the scripts.
func TestScriptsNeedNoMoreRights(t *testing.T) {
	text, err := os.ReadFile("../store/remote.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{admitLua, extendLua, giveBackLua, markLua, buildLua} {
		for _, call := range regexp.MustCompile(`redis\.call\('([A-Z]+)'`).FindAllStringSubmatch(script, -1) {
			if !strings.Contains(string(text), "+"+strings.ToLower(call[1])+" ") && !strings.Contains(string(text), "+"+strings.ToLower(call[1])+"\n") {
				t.Errorf("%s is not among the rights", call[1])
			}
		}
	}
}
