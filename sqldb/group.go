package sqldb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// groupMost bounds a transaction of a group: what it locks, and how long the last one waits.
	groupMost = 100
	// groupLeast is the least time that a caller must have left to be taken along: a
	// transaction ends with the earliest deadline of all that are in it.
	groupLeast = 50 * time.Millisecond
	// groupSingles is how many members of a batch that failed are tried at the same time.
	groupSingles = 8
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

	took atomic.Int64 // ns, the last transaction that was committed
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

// Waiting is how many wait for a transaction that takes them along.
func (g *Group[In, Out]) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.queue)
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
	for {
		if batch = g.inTime(batch); len(batch) == 0 {
			return
		}
		broken, err := g.together(batch)
		several := len(batch) > 1
		switch {
		case several && broken == nil && cutShort(batch, err):
			continue // without those whose time is over
		case several && (broken != nil || single(err)):
			g.alone(batch)
		default:
			answer(batch, broken, err)
		}
		return
	}
}

// answer tells the members of a transaction what became of it.
func answer[In, Out any](batch []*member[In, Out], broken any, err error) {
	for _, m := range batch {
		if m.broken = broken; err != nil {
			m.out = Outcome[Out]{Err: err}
		}
		close(m.done)
	}
}

// cutShort says whether a transaction failed because the time of one of its members was over.
func cutShort[In, Out any](batch []*member[In, Out], err error) bool {
	return err != nil && !errors.Is(err, ErrOutcomeUnknown) && time.Until(earliest(batch)) <= 0
}

func earliest[In, Out any](batch []*member[In, Out]) time.Time {
	first, _ := batch[0].ctx.Deadline()
	for _, m := range batch {
		if deadline, _ := m.ctx.Deadline(); deadline.Before(first) {
			first = deadline
		}
	}
	return first
}

// single says whether one of a batch may be at fault, and not the database.
func single(err error) bool {
	return err != nil && !errors.Is(err, ErrOutcomeUnknown) && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrFull)
}

// inTime keeps those that have the time for a transaction like the last one, and refuses the
// others, who would cut it short for all. Whoever is alone is tried.
func (g *Group[In, Out]) inTime(batch []*member[In, Out]) (rest []*member[In, Out]) {
	least := groupLeast
	if len(batch) > 1 {
		least = min(max(groupLeast, time.Duration(g.took.Load())), g.db.opts.Timeout/4)
	}
	for _, m := range batch {
		if deadline, _ := m.ctx.Deadline(); m.ctx.Err() == nil && time.Until(deadline) >= least {
			rest = append(rest, m)
			continue
		}
		m.out.Err = fail(ErrBusy, errors.New("waiting for a turn: too little time is left"))
		close(m.done)
	}
	return rest
}

// alone tries the members one by one, few at a time: they wait for the same rows.
func (g *Group[In, Out]) alone(batch []*member[In, Out]) {
	places := make(chan struct{}, groupSingles)
	var all sync.WaitGroup
	for _, m := range batch {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			one := g.inTime([]*member[In, Out]{m})
			if len(one) > 0 {
				broken, err := g.together(one)
				answer(one, broken, err)
			}
		})
	}
	all.Wait()
}

// together is one transaction. It ends with the first deadline among its members, and not when
// one of them leaves.
func (g *Group[In, Out]) together(batch []*member[In, Out]) (broken any, err error) {
	defer func() { broken = recover() }()
	in := make([]In, len(batch))
	for i, m := range batch {
		in[i] = m.in
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(batch[0].ctx), earliest(batch))
	defer cancel()
	began := time.Now()
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
	g.took.Store(int64(time.Since(began)))
	for i, m := range batch {
		m.out = outcomes[i]
	}
	return nil, nil
}
