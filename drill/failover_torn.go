package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

// tornTail is the end of a log that no sync has covered: after a power loss any of it may be there, or not.
type tornTail struct {
	file     string
	from, to int64
}

// tear leaves of the tail what a power loss could have left.
func (t tornTail) tear(rng *rand.Rand) (err error) {
	f, err := os.OpenFile(t.file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n := t.to - t.from
	at := t.from + rng.Int64N(n)
	switch rng.IntN(4) {
	case 0: // the file was never made longer
		return f.Truncate(at)
	case 1: // it was, and the bytes never came
		_, err = f.WriteAt(make([]byte, t.to-at), at)
	case 2: // other bytes came
		_, err = f.WriteAt(noise(rng, t.to-at+rng.Int64N(4096)), at)
	default: // a piece in the middle did not come, what follows it did
		_, err = f.WriteAt(noise(rng, min(512, t.to-at)), at)
	}
	return err
}

func noise(rng *rand.Rand, n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// tearTail kills a node while its disk stands still, and takes from its log what no sync has covered.
func tearTail(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	who := (leader + rng.IntN(2)) % len(l.nodes)
	n := l.nodes[who]
	n.disk.hold()
	var tail tornTail
	found := false
	for end := time.Now().Add(5 * time.Second); !found && time.Now().Before(end); {
		if !pauseFor(ctx, 2*time.Millisecond) {
			return nil, ctx.Err()
		}
		tail, found = n.disk.unsynced()
	}
	hit := &nodeHit{at: time.Now()}
	if !found {
		hit.happened = "nothing was written that was not synced"
	}
	if !n.kill() {
		hit.happened = n.name + " had ended before"
	}
	if found {
		if err := tail.tear(rng); err != nil {
			return nil, fmt.Errorf("tearing %s: %w", tail.file, err)
		}
	}
	hit.mend = func(context.Context) error { return l.start(who, false) }
	return hit, nil
}

// delayDisk has the leader's syncs take their time; every second time they do not come back at all while it lasts.
func delayDisk(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	n := l.nodes[(leader+rng.IntN(2))%len(l.nodes)]
	disk := n.disk
	before := disk.slow(0)
	if rng.IntN(2) == 0 {
		disk.hold()
	} else {
		disk.slow(time.Duration(50+rng.IntN(250)) * time.Millisecond)
	}
	hit := &nodeHit{at: time.Now()}
	hit.mend = func(context.Context) error {
		disk.slow(0)
		if disk.release() == before {
			hit.happened = "nothing was synced meanwhile"
		}
		return nil
	}
	return hit, nil
}
