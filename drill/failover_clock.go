package drill

import (
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

//go:embed shim/skew.c
var skewSource []byte

// buildSkew compiles the library that puts engines' clocks wrong. The error is the reason why there is none.
func buildSkew(dir string) (string, error) {
	compiler := ""
	for _, name := range []string{"cc", "gcc", "clang"} {
		if path, err := exec.LookPath(name); err == nil {
			compiler = path
			break
		}
	}
	if compiler == "" {
		return "", errors.New("no C compiler, which the library for the clock needs")
	}
	source, library := filepath.Join(dir, "skew.c"), filepath.Join(dir, "skew.so")
	if err := os.WriteFile(source, skewSource, 0o600); err != nil {
		return "", err
	}
	cmd := exec.Command(compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl") // dlsym, where it is not in libc
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)                                           // what it leaves behind goes with the rest
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", compiler, err, out)
	}
	return library, nil
}

// setSkew puts the clock of an engine that runs under the library ahead by d.
func setSkew(file string, d time.Duration) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(d.Microseconds())), 0)
	return errors.Join(err, f.Close())
}

// jumpClock sets the clock of the leader's engine, by seconds or by hours, ahead or back, and hands leadership to an
// engine whose clock says something else. What it was set to stays, so that later rounds have it too.
func jumpClock(ctx context.Context, l *nodeFleet, rng *rand.Rand) (*nodeHit, error) {
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	most := []time.Duration{3 * time.Second, time.Minute, 36 * time.Hour}[rng.IntN(3)]
	by := most/4 + time.Duration(rng.Int64N(int64(most)))
	if rng.IntN(2) == 0 {
		by = -by
	}
	n := l.nodes[leader]
	if err := setSkew(n.skew, by); err != nil {
		return nil, err
	}
	hit := &nodeHit{at: time.Now()}
	told, err := n.timeOfEngine()
	if err == nil {
		off := time.Until(told) - by
		if off < -5*time.Second || off > 5*time.Second {
			hit.happened = fmt.Sprintf("the engine's clock is off by %s, not by %s", time.Until(told), by)
		}
	}
	pauseFor(ctx, time.Duration(100+rng.IntN(500))*time.Millisecond) // keys are written by this clock
	if err := l.transfer(ctx, leader); err != nil {
		return nil, err
	}
	hit.mend = func(context.Context) error { return nil }
	return hit, nil
}

// timeOfEngine asks the leader's engine what time it is.
func (n *nodeProcess) timeOfEngine() (time.Time, error) {
	c, err := dialRESP(n.clients)
	if err != nil {
		return time.Time{}, err
	}
	defer c.Close()
	answer, err := c.do([]string{"TIME"})
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(numberOf(answer), 0), nil
}
