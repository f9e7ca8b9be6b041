// Package core decides, for one node of a replicated engine, what is committed, whose effects
// they are, and what the node's engine has to do next. It has no I/O and no clock: it is told
// what happened and asked what follows, so that every rule can be driven by a scenario.
//
// The engine's replication stream is cut into chunks, and the chunks go through a log that a
// majority keeps. A State is what a prefix of that log means; all nodes that have applied
// the same prefix have equal States. A Core is one node's view: its State, whether it leads,
// and how far its own engine has come.
//
// Offsets are the engine's: the number of bytes of its stream so far (int64).
package core

import "fmt"

// kept is how many epochs a State remembers. An engine that led an older one gets a full copy.
const kept = 16

// Epoch is the time in which one promoted engine makes the stream. Its bytes follow Start.
type Epoch struct {
	Number uint64 `json:"number"` // 1, 2, 3, …
	Node   uint64 `json:"node"`   // whose engine
	ReplID string `json:"replid"` // what that engine calls its history
	Start  int64  `json:"start"`  // the offset that the history before it ends with
}

// State is what a prefix of the log means.
type State struct {
	Epochs []Epoch `json:"epochs"` // the newest last, at most kept
	Offset int64   `json:"offset"` // end of the newest chunk
	Safe   int64   `json:"safe"`   // end of the newest command that is whole, outside MULTI; <= Offset
}

// Current is the newest epoch; its Number is 0 before the first one.
func (s *State) Current() Epoch {
	if len(s.Epochs) == 0 {
		return Epoch{}
	}
	return s.Epochs[len(s.Epochs)-1]
}

// Apply takes the next entry of the log and says whether it counts. One that does not is
// what a leader left behind that was deposed meanwhile; every node comes to the same answer.
func (s *State) Apply(e Entry) bool {
	switch e := e.(type) {
	case Chunk:
		return s.applyChunk(e)
	case Declaration:
		return s.applyEpoch(e)
	}
	return false
}

func (s *State) applyChunk(c Chunk) bool {
	if c.Epoch == 0 || c.Epoch != s.Current().Number || c.From != s.Offset {
		return false
	}
	s.Offset += int64(len(c.Bytes))
	if c.Safe > c.From && c.Safe <= s.Offset { // a boundary at its very beginning was told by the chunk before
		s.Safe = c.Safe
	}
	return true
}

// applyEpoch voids what was committed of a command whose end never was: nobody can have seen
// a reply that rests on it, because the engine tells offsets at the ends of commands only.
func (s *State) applyEpoch(d Declaration) bool {
	if d.After != s.Current().Number || d.Start != s.Safe {
		return false
	}
	s.Epochs = append(s.Epochs[max(0, len(s.Epochs)-kept+1):len(s.Epochs):len(s.Epochs)],
		Epoch{Number: d.After + 1, Node: d.Node, ReplID: d.ReplID, Start: d.Start})
	s.Offset = d.Start
	return true
}

// Verdict is what an engine gets that comes to be fed.
type Verdict int

const (
	FullSync Verdict = iota // it may hold what was never committed, or lacks what the log no longer has
	Continue                // what it holds is committed; it gets what follows
	Wait                    // it holds bytes of the newest epoch whose fate is open
)

func (v Verdict) String() string { return [...]string{"full sync", "continue", "wait"}[v] }

// Resume judges an engine that was promoted in the epoch with this replid and has come to
// this offset since.
func (s *State) Resume(replid string, offset int64) Verdict {
	for i := len(s.Epochs) - 1; i >= 0; i-- {
		e := s.Epochs[i]
		if e.ReplID != replid {
			continue
		}
		newest := i == len(s.Epochs)-1
		switch end := s.end(i); {
		case offset < e.Start:
			return FullSync
		case offset <= end:
			return Continue
		case newest:
			return Wait
		default:
			return FullSync
		}
	}
	return FullSync
}

// end is the offset that epoch i ended with; what follows it in that engine was rolled back.
func (s *State) end(i int) int64 {
	if i < len(s.Epochs)-1 {
		return s.Epochs[i+1].Start
	}
	return s.Safe
}

// Clone gives a State that shares nothing with s.
func (s *State) Clone() State {
	c := *s
	c.Epochs = append([]Epoch(nil), s.Epochs...)
	return c
}

func (s *State) String() string {
	e := s.Current()
	return fmt.Sprintf("epoch %d of node %d from %d, offset %d, safe %d", e.Number, e.Node, e.Start, s.Offset, s.Safe)
}
