package replica

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// The engine is told what is committed now and then, and the newest; at once when a client waits for it.
func TestAcknowledge(t *testing.T) {
	s := &session{acks: make(chan int64, 1), hurry: make(chan struct{}, 1)}
	s.ctx, s.stop = context.WithCancel(t.Context())
	var mu sync.Mutex
	var told []int64
	s.wg.Add(1)
	go s.acknowledge(func(offset int64) error {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, offset)
		return nil
	})
	defer func() { s.stop(); s.wg.Wait() }()
	const many = 20_000
	begin := time.Now()
	for i := range int64(many) {
		s.committed(i + 1)
	}
	took := time.Since(begin)
	last := func() int64 {
		mu.Lock()
		defer mu.Unlock()
		return told[len(told)-1]
	}
	for end := time.Now().Add(20 * time.Second); last() != many; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the newest that was told is %d", last())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if most := int(took/ackPace) + 3; len(told) > most {
		t.Errorf("%d times in %s", len(told), took)
	}
	if !slices.IsSorted(told) {
		t.Error("it went back")
	}
}

func TestAcknowledgeInAHurry(t *testing.T) {
	s := &session{acks: make(chan int64, 1), hurry: make(chan struct{}, 1)}
	s.asks.Store(100)
	for _, c := range []struct {
		offset int64
		hurry  int
		asks   int64
	}{{99, 0, 100}, {100, 1, 0}, {101, 1, 0}} {
		s.committed(c.offset)
		if len(s.hurry) != c.hurry || s.asks.Load() != c.asks {
			t.Errorf("at %d: hurry %d, asked for %d", c.offset, len(s.hurry), s.asks.Load())
		}
		if got := <-s.acks; got != c.offset {
			t.Errorf("at %d: %d is to be told", c.offset, got)
		}
	}
}

func TestPatienceGrows(t *testing.T) {
	var got []time.Duration
	for d := time.Duration(0); len(got) < 6; {
		d = longer(d)
		got = append(got, d)
	}
	if want := []time.Duration{200e6, 400e6, 800e6, 1600e6, 2000e6, 2000e6}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
