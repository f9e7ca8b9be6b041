package main

import (
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dev/holdfast/store/storetest"
)

// What was killed does nothing any more. That nobody has buried it yet, as where the first process of a container does not, is no
// reason to wait.
func TestLockRunDoesNotWaitForTheDead(t *testing.T) { // alone, for it makes this process the one that should bury
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	})
	p := &lockPlace{T: t, dir: t.TempDir(), at: []string{"--store", storetest.Redis(t).URL()}}
	r := p.run(`trap '' TERM; sleep 60 & echo $! >"$DIR/child"; echo up >"$DIR/up"; while :; do sleep 0.02; done`, "--ttl", "1s", "--grace", "300ms")
	p.untilText("up", "up")
	if out, err := p.say("break", "the lock", "--reason", "a test"); err != nil {
		p.Fatalf("%v, %s", err, out)
	}
	p.wantExit(r, exitLost)
	child, err := strconv.Atoi(p.text("child"))
	if err != nil {
		p.Fatal(err)
	}
	if _, err := unix.Wait4(child, nil, 0, nil); err != nil {
		p.Errorf("it was buried before: %v", err)
	}
}
