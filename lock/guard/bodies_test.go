package guard

import (
	"math/rand/v2"
	"testing"

	"github.com/holdfast-dev/holdfast/store/storetest"
)

func plan() storetest.Plan {
	return storetest.Plan{Keys: []string{"guard:{a}"}, Steps: 4000, Next: func(r *rand.Rand, _ int64) storetest.Step {
		if r.IntN(3) == 0 {
			return storetest.Do(get, getIn{"guard:{a}"})
		}
		return storetest.Do(put, putIn{"guard:{a}", 1 + r.Int64N(6), string(rune('a' + r.IntN(2))), string(rune('v' + r.IntN(3))), 1 + r.Int64N(60_000)})
	}}
}

func TestBothBodies(t *testing.T) { storetest.Diff(t, plan()) }

func TestBothBodiesNoticeErrors(t *testing.T) {
	storetest.DiffFinds(t, plan(),
		storetest.Mutation{Decision: "guard.put", Old: "token < had", New: "token <= had"},
		storetest.Mutation{Decision: "guard.put", Old: "~= ARGV[2]", New: "== ARGV[2]"},
		storetest.Mutation{Decision: "guard.put", Old: "math.ceil", New: "math.floor"},
		storetest.Mutation{Decision: "guard.get", Old: "'value') or ''", New: "'owner') or ''"},
	)
}
