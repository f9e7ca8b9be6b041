package replica

import (
	"bytes"
	"fmt"
	"runtime/pprof"
	"time"

	"github.com/holdfast-dev/holdfast/replica/consensus"
)

const (
	// tooStill is when a log that does not go on is no longer taken for a slow one.
	tooStill   = 3 * time.Second
	stillEvery = 500 * time.Millisecond
	// mostStacks bounds what is said of where the goroutines are.
	mostStacks = 64 << 10
)

// stillness says what of the log stands still; empty: nothing does.
func stillness(p consensus.Pulse) string {
	switch {
	case p.Turn > tooStill:
		return fmt.Sprintf("the log's loop stands still for %s", p.Turn.Round(time.Millisecond))
	case p.Unsync > tooStill:
		return fmt.Sprintf("the disk has not taken entries of the log for %s", p.Unsync.Round(time.Millisecond))
	case p.Apply > tooStill:
		return fmt.Sprintf("committed entries have not been applied for %s", p.Apply.Round(time.Millisecond))
	}
	return ""
}

// watchLog tells when the log stands still, with where everybody stands. A leader whose disk does so hands
// leadership on: it goes on to say that it leads, and nobody else would stand for election. (One whose loop
// stands still says nothing, and others do.)
func (n *Node) watchLog() {
	var since, handedOn time.Time
	for looks := 0; n.ctx.Err() == nil; {
		n.rest(stillEvery, nil)
		p := n.cons.Pulse()
		what := stillness(p)
		if looks++; what == "" {
			looks = 0
		}
		switch {
		case looks == 2: // after once, it may have been the whole process that stood still, and goes on
			since = time.Now()
			n.log.Error("the log stands still", "what", what, "goroutines", stacks())
		case looks == 0 && !since.IsZero():
			n.log.Warn("the log goes on", "stood", tooStill+time.Since(since))
			since = time.Time{}
		}
		if looks >= 2 && p.Unsync > tooStill && time.Since(handedOn) > handOnEvery {
			handedOn = time.Now()
			n.handOn("the log's disk stands still")
		}
	}
}

// stacks are those of all goroutines, those in one place together.
func stacks() string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return err.Error()
	}
	return string(b.Bytes()[:min(b.Len(), mostStacks)])
}
