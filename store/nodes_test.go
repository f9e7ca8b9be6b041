package store_test

import (
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// The suite on three nodes; in the middle of it the one that leads is killed.
func TestConformanceOnNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three nodes")
	}
	n := storetest.Nodes(t)
	s := open(t, n.URL()+"?prefix=p:", store.Options{})
	conformThrough(t, s, func() {
		n.Kill(n.Leader())
		within(t, 20*time.Second, "the others decide", func() bool { return s.Ping(t.Context()) == nil })
	})
}

// One node of three is killed while decisions run, the leader and then another, and comes back.
// Nothing that was acknowledged is lost, what was told to be unavailable is not there, and
// decisions go on by themselves.
func TestNodesKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three nodes")
	}
	n := storetest.Nodes(t)
	s := open(t, n.URL(), store.Options{})
	if s.Class() != store.ClassA {
		t.Errorf("class %s", s.Class())
	}
	r := startSteady(t, s)
	r.acknowledged(t, 50, 20*time.Second)
	for _, which := range []func() int{
		n.Leader, // it is killed with answers on their way
		n.Leader, // also the one that took over
		func() int { return (n.Leader() + 1) % 3 }, // through which clients may be connected
	} {
		i := which()
		n.Kill(i)
		began := time.Now()
		r.acknowledged(t, 1, 20*time.Second)
		t.Logf("decisions go on %s after node %d was killed", time.Since(began).Round(time.Millisecond), i)
		r.acknowledged(t, 50, 20*time.Second)
		n.Restart(i)
		r.acknowledged(t, 50, 20*time.Second)
	}
	r.end()
	if lost := r.judge(t, n); lost > 0 {
		t.Errorf("%d were acknowledged and are lost", lost)
	}
}
