package sqldb

import (
	"container/list"
	"context"
	"database/sql"
	"sync"
)

// pool is connections and whose turn it is. database/sql hands a connection that comes back to any
// of those who wait, so that under load some wait for very long; here they are served in the order
// in which they came, and those who end something first.
type pool struct {
	*sql.DB
	turns turns
}

func newPool(db *sql.DB, conns int) *pool {
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return &pool{DB: db, turns: turns{free: conns}}
}

// othersEvery is which turn goes to those who began earlier than any that ends something, so that
// even a flood of endings leaves them a part.
const othersEvery = 4

type ending struct{}

// Ending marks transactions that end something: they give units back, settle, confirm, release.
// Where connections are scarce they go before those that begin something, three turns of four:
// what ends makes room, what begins makes more to end.
func Ending(ctx context.Context) context.Context {
	return context.WithValue(ctx, ending{}, true)
}

// turns are as many as there are connections. Its waiters are served in the order in which they came.
type turns struct {
	mu     sync.Mutex
	free   int
	queues [2]list.List // of chan struct{}: those that end something, and the others
	given  int          // to those who had to wait
}

// take waits for a turn; give must follow. Error: ctx's own.
func (t *turns) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	queue := &t.queues[1]
	if ctx.Value(ending{}) != nil {
		queue = &t.queues[0]
	}
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	place := queue.PushBack(mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-mine: // it came at the last moment
		t.pass()
	default:
		queue.Remove(place)
	}
	return ctx.Err()
}

func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass()
}

// pass hands a turn on, or keeps it for the next who comes. t.mu is held.
func (t *turns) pass() {
	first, second := &t.queues[0], &t.queues[1]
	if (t.given+1)%othersEvery == 0 {
		first, second = second, first
	}
	for _, queue := range []*list.List{first, second} {
		if next := queue.Front(); next != nil {
			t.given++
			close(queue.Remove(next).(chan struct{}))
			return
		}
	}
	t.free++
}
