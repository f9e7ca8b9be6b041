package sqldb

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// waiting is how many wait for a turn.
func (t *turns) waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.queues[0].Len() + t.queues[1].Len()
}

// Transactions get the writer in the order in which they came, and one that ends something goes
// before those that begin.
func TestTurns(t *testing.T) {
	db, err := Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "db"), Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var order []string // the writer is one
	begun, over := make(chan bool), make(chan bool)
	done := make(chan error)
	go func() {
		done <- db.Write(t.Context(), func(context.Context, *Tx) error { close(begun); <-over; return nil })
	}()
	<-begun
	write := func(ctx context.Context, name string) {
		was := db.writer.turns.waiting()
		go func() {
			done <- db.Write(ctx, func(context.Context, *Tx) error { order = append(order, name); return nil })
		}()
		for end := time.Now().Add(10 * time.Second); db.writer.turns.waiting() == was; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it does not wait")
			}
		}
	}
	for i := range 5 {
		write(t.Context(), "begin "+strconv.Itoa(i))
	}
	gone, leave := context.WithCancel(t.Context())
	write(gone, "gone")
	for i := range 5 {
		write(Ending(t.Context()), "end "+strconv.Itoa(i))
	}
	leave()
	if err := <-done; !errors.Is(err, ErrBusy) {
		t.Errorf("one who left got %v", err)
	}
	close(over)
	for range 11 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	want := []string{"end 0", "end 1", "end 2", "begin 0", "end 3", "end 4", "begin 1", "begin 2", "begin 3", "begin 4"}
	if !slices.Equal(order, want) {
		t.Errorf("%q", order)
	}
	if n := db.writer.turns.free; n != 1 {
		t.Errorf("%d turns are free", n)
	}
}

// One who leaves as its turn comes hands it on.
func TestTurnThatCameTooLate(t *testing.T) {
	q := turns{free: 1}
	for range 2000 {
		if err := q.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(t.Context())
		got := make(chan error)
		go func() { got <- q.take(ctx) }()
		for q.waiting() == 0 {
			time.Sleep(time.Microsecond)
		}
		go leave()
		q.give()
		if err := <-got; err == nil {
			q.give()
		}
		if q.waiting() != 0 || q.free != 1 {
			t.Fatalf("%d wait, %d are free", q.waiting(), q.free)
		}
	}
}

// Whoever comes when its time is over takes no turn, though one is free, and is told that it is busy.
func TestTurnWithoutTime(t *testing.T) {
	db, err := Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	over, end := context.WithCancel(t.Context())
	end()
	if err := db.Write(over, func(context.Context, *Tx) error { return nil }); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
	if n := db.writer.turns.free; n != 1 {
		t.Errorf("%d turns are free", n)
	}
}
