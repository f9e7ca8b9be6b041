package sqldb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// groupMost bounds a transaction of a group: what it locks, and how long the last one waits.
	groupMost = 100
	// groupLeast is the time that a caller must have left to be taken along: a transaction
	// ends with the earliest deadline of all that are in it.
	groupLeast = 50 * time.Millisecond
)

// Group commits together what arrives together (group commit). A caller who finds nobody ahead
// begins at once; those who come meanwhile gather, and the next transaction takes all of them.
// So the price of a commit, and of the lock on a row that everybody wants, is shared.
type Group[In, Out any] struct {
	db    *DB
	do    func(ctx context.Context, tx *Tx, in []In) ([]Outcome[Out], error)
	width int

	mu      sync.Mutex
	queue   []*member[In, Out]
	running int // transactions
}

// Outcome is what became of one member of a group.
type Outcome[Out any] struct {
	Value Out
	Err   error // this member's alone; its transaction was committed
}

type member[In, Out any] struct {
	ctx    context.Context
	in     In
	done   chan struct{} // closed when out is there
	out    Outcome[Out]
	broken any // what do panicked with
}

// NewGroup makes a group. do is as for Write, for many at once: it returns an outcome for each
// of in, which are at most 100. A member that is refused (Outcome.Err) must have written
// nothing. When do returns an error nothing is committed, and unless the database is at fault
// every member is tried again, alone.
func NewGroup[In, Out any](db *DB, do func(ctx context.Context, tx *Tx, in []In) ([]Outcome[Out], error)) *Group[In, Out] {
	g := &Group[In, Out]{db: db, do: do, width: 1}
	if db.dialect == PostgreSQL {
		g.width = 2 // one works while the other is being synced
	}
	return g
}

// Do returns what became of in once that is committed. A ctx that ends while in waits for its
// turn gives ErrBusy; after that Do waits for the transaction, whose time is bounded by ctx's
// deadline and by Options.Timeout. Errors: the outcome's, and those of Write.
func (g *Group[In, Out]) Do(ctx context.Context, in In) (Out, error) {
	var none Out
	if ctx.Value(inside{g.db}) != nil {
		return none, fmt.Errorf("%w: a transaction inside a transaction", ErrConfig)
	}
	ctx, cancel := context.WithTimeout(ctx, g.db.opts.Timeout)
	defer cancel()
	m := &member[In, Out]{ctx: ctx, in: in, done: make(chan struct{})}
	g.enter(m)
	select {
	case <-m.done:
	case <-ctx.Done():
		if g.leave(m) {
			return none, fail(ErrBusy, fmt.Errorf("waiting for a turn: %w", ctx.Err()))
		}
		<-m.done
	}
	if m.broken != nil {
		panic(m.broken)
	}
	return m.out.Value, m.out.Err
}

func (g *Group[In, Out]) enter(m *member[In, Out]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = append(g.queue, m)
	if g.running < g.width {
		g.running++
		go g.lead()
	}
}

// leave takes m out of the queue, if it is still there.
func (g *Group[In, Out]) leave(m *member[In, Out]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, q := range g.queue {
		if q == m {
			g.queue = append(g.queue[:i], g.queue[i+1:]...)
			return true
		}
	}
	return false
}

// lead makes transactions as long as somebody waits.
func (g *Group[In, Out]) lead() {
	for {
		g.mu.Lock()
		n := min(len(g.queue), groupMost)
		if n == 0 {
			g.running--
			g.queue = nil // the array was of the busiest moment
			g.mu.Unlock()
			return
		}
		batch := append([]*member[In, Out](nil), g.queue[:n]...)
		clear(g.queue[:n])
		g.queue = g.queue[n:]
		g.mu.Unlock()
		g.commit(batch)
	}
}

// commit decides a batch together, or each of it alone.
func (g *Group[In, Out]) commit(batch []*member[In, Out]) {
	batch = inTime(batch)
	if len(batch) == 0 {
		return
	}
	broken, err := g.together(batch)
	switch {
	case err == nil && broken == nil:
	case len(batch) > 1 && (broken != nil || single(err)):
		g.alone(batch)
		return
	default:
		for _, m := range batch {
			m.out, m.broken = Outcome[Out]{Err: err}, broken
		}
	}
	for _, m := range batch {
		close(m.done)
	}
}

// single says whether one of a batch may be at fault, and not the database.
func single(err error) bool {
	return !errors.Is(err, ErrOutcomeUnknown) && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrFull)
}

// inTime refuses those whose deadline would end the transaction of all others.
func inTime[In, Out any](batch []*member[In, Out]) (rest []*member[In, Out]) {
	for _, m := range batch {
		if deadline, _ := m.ctx.Deadline(); m.ctx.Err() == nil && time.Until(deadline) >= groupLeast {
			rest = append(rest, m)
			continue
		}
		m.out.Err = fail(ErrBusy, errors.New("waiting for a turn: too little time is left"))
		close(m.done)
	}
	return rest
}

func (g *Group[In, Out]) alone(batch []*member[In, Out]) {
	var all sync.WaitGroup
	for _, m := range batch {
		all.Go(func() {
			broken, err := g.together([]*member[In, Out]{m})
			if m.broken = broken; err != nil {
				m.out = Outcome[Out]{Err: err}
			}
			close(m.done)
		})
	}
	all.Wait()
}

// together is one transaction. It ends with the first deadline among its members, and not when
// one of them leaves.
func (g *Group[In, Out]) together(batch []*member[In, Out]) (broken any, err error) {
	defer func() { broken = recover() }()
	in := make([]In, len(batch))
	first, _ := batch[0].ctx.Deadline()
	for i, m := range batch {
		in[i] = m.in
		if deadline, _ := m.ctx.Deadline(); deadline.Before(first) {
			first = deadline
		}
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(batch[0].ctx), first)
	defer cancel()
	var outcomes []Outcome[Out]
	err = g.db.Write(ctx, func(ctx context.Context, tx *Tx) (err error) {
		outcomes, err = g.do(ctx, tx, in)
		if err == nil && len(outcomes) != len(in) {
			err = fmt.Errorf("%w: %d outcomes of %d members", ErrConfig, len(outcomes), len(in))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, m := range batch {
		m.out = outcomes[i]
	}
	return nil, nil
}
