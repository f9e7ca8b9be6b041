package payment

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dev/holdfast/internal/gate"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// Payments accepts payments and settles them. It is safe for concurrent use, and for use by
// many processes on one database.
type Payments struct {
	db       *sqldb.DB
	provider Provider
	goods    Goods
	opts     Options
	stats    counters

	accepting *sqldb.Group[application, Accepted]
	gate      *gate.Gate
	moving    *sqldb.Group[Payment, Payment]

	currencies sync.Map      // whose accounts exist
	kick       chan struct{} // there is work
	slots      chan struct{} // one place for each worker
	stop       chan struct{} // closed: take nothing new
	work       context.Context
	abort      context.CancelFunc // ends what is being settled
	wg         sync.WaitGroup
	started    atomic.Bool
	once       sync.Once

	// at is called at every step of settling. Tests return an error where a process could die.
	at func(point string) error
}

type counters struct{ accepted, captured, voided, refunded, failed, retried atomic.Int64 }

// Stats counts what this process did since it started.
type Stats struct {
	Accepted, Captured, Voided, Refunded, Failed, Retried int64
	Waiting                                               int64 // now: for a transaction that takes them along
}

// Stats returns the counters.
func (p *Payments) Stats() Stats {
	c := &p.stats
	return Stats{
		Accepted: c.accepted.Load(), Captured: c.captured.Load(), Voided: c.voided.Load(),
		Refunded: c.refunded.Load(), Failed: c.failed.Load(), Retried: c.retried.Load(),
		Waiting: int64(p.accepting.Waiting() + p.moving.Waiting()),
	}
}

// inTime is how long Accept takes when there is more than can be borne; whoever would take longer
// is told at once. It is more than for those who have no hold yet, and what settles payments has
// no gate at all: what ends something goes before what begins something.
const inTime = 300 * time.Millisecond

// Unsettled counts the payments, of all processes, that are neither captured nor over, and says
// how long ago the oldest of them was accepted.
func (p *Payments) Unsettled(ctx context.Context) (n int64, oldest time.Duration, err error) {
	var micros int64
	err = p.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		return tx.Row(ctx, `SELECT count(*), coalesce(max(holdfast_now() - created_at), 0)
			FROM payments WHERE `+live).Scan(&n, &micros)
	})
	return n, max(0, time.Duration(micros)*time.Microsecond), err
}

// New makes Payments on a database that has the Migrations. Start begins settling.
func New(db *sqldb.DB, provider Provider, goods Goods, opts Options) (*Payments, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Payments{
		db: db, provider: provider, goods: goods, opts: opts,
		kick:  make(chan struct{}, 1),
		slots: make(chan struct{}, opts.Workers),
		stop:  make(chan struct{}),
		gate:  gate.New(inTime),
		at:    func(string) error { return nil },
	}
	p.accepting = sqldb.NewGroup(db, p.accept)
	p.moving = sqldb.NewGroup(db, p.moveAll)
	p.work, p.abort = context.WithCancel(sqldb.Ending(context.Background()))
	return p, nil
}

// Start begins settling, in the background, until Close.
func (p *Payments) Start() {
	if p.started.CompareAndSwap(false, true) && !p.stopped() {
		p.wg.Go(p.dispatch)
	}
}

// Close takes nothing new, lets what is being settled come to a step's end while ctx lasts, and
// returns when no goroutine is left. Whatever is not settled goes on with the next Start, here
// or in another process.
func (p *Payments) Close(ctx context.Context) error {
	p.once.Do(func() { close(p.stop) })
	done := make(chan struct{})
	go func() { p.wg.Wait(); close(done) }()
	defer p.abort()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		p.abort() // calls of the provider and of the database end with it
		<-done
		return ctx.Err()
	}
}

func (p *Payments) stopped() bool {
	select {
	case <-p.stop:
		return true
	default:
		return false
	}
}

func (p *Payments) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// dispatch hands due payments to workers: at once when this process has accepted one, and from
// time to time for those that others left behind.
func (p *Payments) dispatch() {
	for {
		taken := p.round()
		if taken > 0 {
			continue
		}
		select {
		case <-p.kick:
		case <-time.After(p.opts.PollEvery/2 + rand.N(p.opts.PollEvery)):
		case <-p.stop:
			return
		}
	}
}

// round takes as many payments as there are free workers, at least waiting for one to be free.
func (p *Payments) round() (taken int) {
	select {
	case p.slots <- struct{}{}:
	case <-p.stop:
		return 0
	}
	<-p.slots // it was only to wait; dispatch is the only one that fills them
	if p.stopped() {
		return 0
	}
	due, err := p.take(p.work, cap(p.slots)-len(p.slots))
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			p.opts.Logger.Warn("payment: looking for work", "error", err)
		}
		return 0
	}
	if err := p.look(p.work, due); err != nil {
		p.opts.Logger.Info("payment: looking at holds", "error", err) // each worker tries once more
	}
	for _, pay := range due {
		p.slots <- struct{}{}
		p.wg.Go(func() {
			defer p.wake() // its place may be wanted
			defer func() { <-p.slots }()
			p.settle(p.work, pay)
		})
	}
	return len(due)
}

const live = `state IN ('pending', 'authorised', 'capturing')`

const due = live + ` AND next_at <= holdfast_now()`

// first are those that can end, and then the youngest: when there are more than can be settled
// in time, the holds of the oldest are gone, and to settle those first would lose all the others.
const first = `CASE state WHEN 'capturing' THEN 0 WHEN 'authorised' THEN 1 ELSE 2 END, next_at DESC`

// take gives this process up to limit payments for the time of a lease. A worker that outlives
// its lease does no harm: every step is idempotent and moves a state only from where it was.
func (p *Payments) take(ctx context.Context, limit int) ([]Payment, error) {
	var found bool
	err := p.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error { // so that idling writes nothing
		return tx.Row(ctx, `SELECT EXISTS (SELECT 1 FROM payments WHERE `+due+`)`).Scan(&found)
	})
	if err != nil || !found {
		return nil, err
	}
	var all []Payment
	err = p.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		all = nil
		rows, err := tx.Query(ctx, `
			UPDATE payments SET next_at = holdfast_now() + $1, attempts = attempts + 1
			WHERE id IN (SELECT id FROM payments WHERE `+due+` ORDER BY `+first+` LIMIT $2`+tx.SkipLocked()+`)
			RETURNING `+columns, p.opts.Lease.Microseconds(), limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			pay, err := scan(rows)
			if err != nil {
				return err
			}
			all = append(all, pay)
		}
		return rows.Err()
	})
	return all, err
}

// later puts a payment back, to be tried again after a pause that grows with the attempts.
func (p *Payments) later(ctx context.Context, pay Payment, why error) {
	pause := p.opts.MaxBackoff
	if n := min(max(pay.attempts-1, 0), 30); p.opts.MinBackoff<<n < pause && p.opts.MinBackoff<<n > 0 {
		pause = p.opts.MinBackoff << n
	}
	pause = pause/2 + rand.N(pause)
	p.stats.retried.Add(1)
	p.opts.Logger.Info("payment: will try again", "payment", pay.ID, "state", pay.State, "attempt", pay.attempts, "in", pause, "error", why)
	err := p.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE payments SET next_at = holdfast_now() + $3, reason = $4 WHERE id = $1 AND state = $2`,
			pay.ID, string(pay.State), pause.Microseconds(), shorten(why.Error()))
		return err
	})
	if err != nil {
		p.opts.Logger.Warn("payment: stays until its lease ends", "payment", pay.ID, "error", err)
	}
}

// shorten keeps reasons small, and such as every database takes: they stand in rows and events,
// and a provider's words can be anything.
func shorten(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
}
