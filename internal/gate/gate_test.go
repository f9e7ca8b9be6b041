package gate

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A pool that bears 800 a second, callers who wait 200 ms at most and come at a fixed rate,
// however long the others wait.
const (
	workers  = 8
	work     = 10 * time.Millisecond
	capacity = 800
	patience = 200 * time.Millisecond
)

type outcome struct{ sent, inTime, refused, given int64 }

// load sends requests at a rate for a time. Without a gate all are let in.
func load(g *Gate, rate float64, lasts time.Duration) outcome {
	pool := make(chan struct{}, workers)
	var o outcome
	var inTime, refused, given atomic.Int64
	var all sync.WaitGroup
	for began := time.Now(); time.Since(began) < lasts; time.Sleep(time.Millisecond) {
		for due := int64(time.Since(began).Seconds() * rate); o.sent < due; o.sent++ {
			all.Go(func() {
				if g != nil && !g.Enter() {
					refused.Add(1)
					return
				}
				ok := serve(pool)
				if g != nil {
					g.Leave(true)
				}
				if ok {
					inTime.Add(1)
				} else {
					given.Add(1)
				}
			})
		}
	}
	all.Wait()
	o.inTime, o.refused, o.given = inTime.Load(), refused.Load(), given.Load()
	return o
}

// serve takes a place and works, as most servers do: whether anybody still waits is not looked at.
func serve(pool chan struct{}) (inTime bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pool <- struct{}{}
	time.Sleep(work)
	<-pool
	return ctx.Err() == nil
}

// saturated is what the pool does in a time when it is never idle, on this machine and now.
func saturated(lasts time.Duration) (done int64) {
	var n atomic.Int64
	var all sync.WaitGroup
	pool := make(chan struct{}, workers)
	end := time.Now().Add(lasts)
	for range workers {
		all.Go(func() {
			for ; time.Now().Before(end); n.Add(1) {
				serve(pool)
			}
		})
	}
	all.Wait()
	return n.Load()
}

func TestGoodput(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const lasts = 2 * time.Second
	guarded := func(rate float64) outcome {
		g := New(patience / 2)
		load(g, rate, time.Second) // until the limit has been found
		return load(g, rate, lasts)
	}
	peak := saturated(lasts)
	t.Logf("saturated: %d", peak)
	for _, c := range []struct {
		rate, least float64
	}{{2, 0.95}, {4, 0.80}} {
		o := guarded(c.rate * capacity)
		t.Logf("at %.0f%%: %+v", 100*c.rate, o)
		if float64(o.inTime) < c.least*float64(peak) {
			t.Errorf("at %.0f times the load %d in time, of %d that could be", c.rate, o.inTime, peak)
		}
	}
	if o := guarded(0.7 * capacity); o.refused > 0 || o.given > 0 {
		t.Errorf("at 70%%: %+v", o)
	}
	// What it is good for: without it nearly nobody is served in time.
	if o := load(nil, 2*capacity, lasts); float64(o.inTime) > 0.5*float64(peak) {
		t.Errorf("the test shows nothing: unguarded, %+v", o)
	}
}

// The limit follows what can be done: down when it gets slow, and up again.
func TestLimitFollows(t *testing.T) {
	g := New(100 * time.Millisecond)
	now := g.start
	turn := func(done int64, peak int64) int64 {
		now = now.Add(window)
		g.done.Store(done)
		g.peak.Store(peak)
		g.turnAt(int64(now.Sub(g.start)))
		return g.Limit()
	}
	if n := turn(0, 10); n != first {
		t.Errorf("nobody asked, and the limit is %d", n)
	}
	if n := turn(0, first); n != first/2 {
		t.Errorf("after one bad moment the limit is %d", n)
	}
	for range 20 {
		turn(0, first)
	}
	if n := g.Limit(); n != least {
		t.Errorf("after two bad seconds the limit is %d", n)
	}
	if n := turn(3000, least); n != 3000 {
		t.Errorf("3,000 were done in 100 ms, and the limit is %d", n)
	}
}

func TestEnterAndLeave(t *testing.T) {
	g := New(time.Second)
	for range first {
		if !g.Enter() {
			t.Fatal("refused below the limit")
		}
	}
	if g.Enter() {
		t.Error("let in beyond the limit")
	}
	if g.InFlight() != first {
		t.Errorf("%d in flight", g.InFlight())
	}
	g.Leave(true)
	if !g.Enter() {
		t.Error("refused although one has left")
	}
}
