package storetest

import (
	"fmt"
	"testing"

	"github.com/holdfast-dev/holdfast/store"
)

// rig is what stands beside the embedded engine in a differential test: engines that share a clock.
type rig struct {
	url     string
	clock   *clock
	flush   func(testing.TB) // empties all of them
	ways    []string         // a key for each engine that has keys of its own
	moody   bool             // may refuse a decision for a moment, as a whole; it is then asked again
	disturb func()           // a fault that must change nothing; nil: none
}

func serverRig(t testing.TB) rig {
	s, c := clocked(t)
	return rig{url: s.URL(), clock: c, ways: []string{"{k}"}, flush: func(t testing.TB) { s.Admin(t, "FLUSHALL") }}
}

// patient are servers that do not give each other up when the clock that they share jumps.
var patient = []string{"--repl-timeout", "100000000"}

func clusterRig(t testing.TB) rig {
	c, env := shim(t)
	stop := c.run()
	s := startCluster(t, settings{env: env, args: append(patient, "--cluster-node-timeout", "100000000")})
	stop()
	g := rig{url: s.URL(), clock: c, flush: func(t testing.TB) {
		for i := range shards {
			s.Master(i).Admin(t, "FLUSHALL")
		}
	}}
	for i, n := 0, 0; i < shards; n++ {
		if key := fmt.Sprintf("{k%d}", n); s.Shard(store.Slot(key)) == i {
			g.ways, i = append(g.ways, key), i+1
		}
	}
	return g
}

func sentinelRig(t testing.TB) rig {
	c, env := shim(t)
	stop := c.run()
	w := startSentinels(t, settings{env: env, args: patient})
	stop()
	return rig{url: w.URL(), clock: c, ways: []string{"{k}"}, flush: func(t testing.TB) { w.Master().Admin(t, "FLUSHALL") }}
}

// nodesRig: an engine of a node that has not heard from its node within ten seconds, by the clock
// that jumps, refuses writes until it has.
func nodesRig(t testing.TB) rig {
	c, env := shim(t)
	stop := c.run()
	n := startNodes(t, env)
	stop()
	return rig{url: n.URL(), clock: c, ways: []string{"{k}"}, moody: true,
		flush:   func(t testing.TB) { n.Admin(t, "FLUSHALL") },
		disturb: func() { n.Kill(n.Leader()) }}
}

// awaitPing waits until the engines decide again.
func (d *differ) awaitPing(t testing.TB) {
	t.Helper()
	poll(t, "they answer again", func() bool { return d.remote.Ping(t.Context()) == nil })
}
