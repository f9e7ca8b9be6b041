package drill

import (
	"github.com/anishathalye/porcupine"
)

// lockStep is a step of a lock's history: that a lease begins, or that it ends.
type lockStep struct {
	begins bool
	token  int64
}

// lockState is who has the name, 0: nobody; and the largest token so far.
type lockState struct{ holder, last int64 }

// lockModel is a lock with fencing tokens: one holder at a time, tokens that only grow.
var lockModel = porcupine.Model{
	Init: func() any { return lockState{} },
	Step: func(state, in, _ any) (bool, any) {
		s, step := state.(lockState), in.(lockStep)
		if step.begins {
			return s.holder == 0 && step.token > s.last, lockState{step.token, step.token}
		}
		return s.holder == step.token, lockState{0, s.last}
	},
}

// lockHistory is a name's leases as operations that overlap. A lease begins between the question and
// the answer. It ends between the release and its answer, if the store said that it was held until
// then; otherwise it expired, at any time after its holder had stopped to believe in it, but before the
// store said so. Leases that nobody was told of are left out: they stand in nobody's way.
func lockHistory(tenures []tenure, jumped func(t tenure) bool) (history []porcupine.Operation) {
	var end int64
	for _, t := range tenures {
		end = max(end, t.got, t.answered, t.knew)
	}
	for _, t := range tenures {
		history = append(history, porcupine.Operation{ClientId: t.who, Input: lockStep{true, t.token}, Call: t.asked, Return: t.got})
		over := porcupine.Operation{ClientId: t.who, Input: lockStep{false, t.token}, Call: t.knew, Return: end + 1}
		switch {
		case t.heldUntilReleased():
			over.Call, over.Return = t.released, t.answered
		case jumped(t): // the engine's clock says when
			over.Call = t.asked
		}
		if t.answered > 0 && t.outcome == "lost" {
			over.Return = t.answered
		}
		over.Call = min(over.Call, over.Return)
		history = append(history, over)
	}
	return history
}
