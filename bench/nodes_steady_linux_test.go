package bench

import (
	"flag"
	"sync"
	"testing"
	"time"
)

var steady = flag.Duration("steady", 0, "how long three nodes are kept at full load, to see whether they stay with their leader; 0: not at all")

// TestSteady keeps three nodes with default settings at full load and fails when leadership changes, which would be an election
// that nothing was the cause of: 100 connections write and read, one command at a time or in pipelines.
func TestSteady(t *testing.T) {
	if *steady == 0 {
		t.Skip("takes as long as -steady says")
	}
	f := startNodes(t, holdfasts(t)[0])
	before := f.status(f.leader(t))
	if tell(f.leader(t).clients, "SET", "key:000000", value(3)) != "+OK" { // for those who read first
		t.Fatal("no write is answered")
	}
	t.Logf("%s leads in term %d", before.Name, before.Term)
	for began := time.Now(); time.Since(began) < *steady; {
		turn := min(time.Minute, *steady-time.Since(began))
		var rates [4]float64
		var all sync.WaitGroup
		leader := f.leader(t).clients
		for i, w := range workloads[:len(rates)] {
			w.conns = 25
			all.Go(func() { rates[i] = w.load(false).run(t, leader, turn) })
		}
		all.Wait()
		if t.Failed() {
			return
		}
		now := f.status(f.leader(t))
		eventually(t, "the leader says its term", func() bool { now = f.status(f.leader(t)); return now.Term > 0 })
		t.Logf("%5.0f s: term %d; SET %.0f/s, in pipelines %.0f/s; GET %.0f/s, in pipelines %.0f/s",
			time.Since(began).Seconds(), now.Term, rates[0], rates[1], rates[2], rates[3])
		if now.Term != before.Term || now.Name != before.Name {
			t.Fatalf("%s leads in term %d, after %s in term %d", now.Name, now.Term, before.Name, before.Term)
		}
	}
}
