// Package flashsale sells few items to many buyers at once, and never one that is not there.
//
// Promised: sold + held ≤ stock at every instant. Three layers hold it, each of which alone is
// enough: permits in the store, a conditional update in SQL, and a CHECK constraint. A buyer
// never has more than the limit. A hold that was given is there until it expires, is released,
// or is an order; one that ends goes back on sale within its time and a second, while a process
// and the database are up. One idempotency key gives one hold, and its repeats the same bytes
// until the key expires.
//
// SQL is the truth of a hold, on every class of store. The store keeps the rush away from SQL
// and may be lost at any time: it is rebuilt from SQL, and what comes late meets the
// constraints. (The store alone prevents an oversell as long as it loses nothing: class A.)
//
// Not promised: that who came first is served first; that "sold out" is still true when it
// arrives (it is at most 100 ms old); that a buyer is who the caller says.
//
// Retries: Hold is idempotent by its key; "sold out" and the limit are not remembered. Create
// is idempotent by its id, Release by nature.
//
// Cost: a hold is two decisions in the store and one SQL transaction; a refusal is one
// decision, or nothing while the sold-out mark is fresh.
package flashsale

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dev/holdfast/internal/gate"
	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// What can come back, beside the errors of store and sqldb. None of these wrote anything.
var (
	// ErrSoldOut: every unit is sold or held. Units may come back while some are only held.
	ErrSoldOut = errors.New("flashsale: sold out")
	// ErrLimit: the buyer has as many units as one buyer may have.
	ErrLimit = errors.New("flashsale: buyer's limit reached")
	// ErrNotOpen: the sale has not opened yet.
	ErrNotOpen = errors.New("flashsale: not open yet")
	// ErrNotFound: there is no such sale, hold or order.
	ErrNotFound = errors.New("flashsale: not found")
	// ErrExists: the id belongs to a sale with other terms.
	ErrExists = errors.New("flashsale: a sale with other terms has this id")
	// ErrPaid: the hold has a payment that was accepted; it cannot be released.
	ErrPaid = errors.New("flashsale: hold has a payment")
	// ErrKeyReused: the key belongs to another request.
	ErrKeyReused = errors.New("flashsale: idempotency key was used for another request")
	// ErrInFlight: a request with this key is running, or was a moment ago. Repeat it with
	// the same key.
	ErrInFlight = errors.New("flashsale: a request with this key is running")
	// ErrClosed: the sales were closed.
	ErrClosed = errors.New("flashsale: closed")
)

// InvalidError says which field of a request cannot be accepted.
type InvalidError struct{ Field, Reason string }

func (e *InvalidError) Error() string { return fmt.Sprintf("flashsale: %s %s", e.Field, e.Reason) }

//go:embed migrations
var migrations embed.FS

// Migrations is the schema of sales alone; see Schema.
func Migrations() sqldb.Migrations {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the path above is a constant
	}
	return sqldb.Migrations{Name: "flashsale", FS: dir}
}

// Schema is all that sales need: what they stand on, and then their own, for sqldb.DB.Migrate.
func Schema() []sqldb.Migrations { return append(payment.Schema(), Migrations()) }

// Options of New. The zero value works.
type Options struct {
	SQLTimeout time.Duration // longest from asking for a permit to sending COMMIT; default 2s
	PermitLife time.Duration // life of a permit without a row; default SQLTimeout + 4s
	KeyLife    time.Duration // how long answers are kept for repeats; default 24h
	MarkLife   time.Duration // how old a "sold out" may be; default 100ms, at most 100ms
	Logger     *slog.Logger  // default: discard
}

const (
	expireEvery    = 200 * time.Millisecond
	lateEvery      = 100 * time.Millisecond
	reconcileEvery = time.Second
	fullEvery      = 30 * time.Second
	logEvery       = 10 * time.Second
	// commitTime is how long a COMMIT may take that was sent before its deadline; see sqldb.
	commitTime = 2 * time.Second
	// inTime is how long an attempt takes when there are more than can be borne: whoever would
	// take longer is told so at once.
	inTime = 100 * time.Millisecond
	// permitMargin is how much longer a permit lives than its hold.
	permitMargin = 400 * time.Millisecond
)

func (o Options) withDefaults() (Options, error) {
	for _, d := range []struct {
		is *time.Duration
		by time.Duration
	}{{&o.SQLTimeout, 2 * time.Second}, {&o.KeyLife, 24 * time.Hour}, {&o.MarkLife, 100 * time.Millisecond}} {
		if *d.is == 0 {
			*d.is = d.by
		}
		if *d.is < 0 {
			return o, errors.New("flashsale: a negative duration")
		}
	}
	if o.PermitLife == 0 {
		o.PermitLife = o.SQLTimeout + commitTime + 2*time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.PermitLife < o.SQLTimeout+commitTime+reconcileEvery+settleTime:
		// A process that dies between commit and prolonging leaves this much time to mend it.
		return o, fmt.Errorf("flashsale: PermitLife %s is not 3.5s longer than SQLTimeout %s", o.PermitLife, o.SQLTimeout)
	case o.MarkLife > 100*time.Millisecond:
		return o, fmt.Errorf("flashsale: MarkLife %s is longer than 100ms", o.MarkLife)
	case o.KeyLife < time.Minute:
		return o, fmt.Errorf("flashsale: KeyLife %s is shorter than 1m", o.KeyLife)
	}
	return o, nil
}

// Sales sells. It is safe for concurrent use, and for use by many processes on one store and
// one database. It is the payment.Goods of what it sells.
type Sales struct {
	store *store.Store
	db    *sqldb.DB
	opts  Options
	stats counters
	holds *sqldb.Group[attempt, Held]
	gate  *gate.Gate
	late  latePermits

	known sync.Map // id → *terms: what never changes about a sale

	stop   context.CancelFunc
	work   context.Context
	mu     sync.Mutex // orders background work and Close
	closed bool
	wg     sync.WaitGroup

	// at is called between steps. Tests return an error where a process could die.
	at func(point string) error
}

// New makes Sales on a database that has the Migrations. Start begins its background work.
func New(st *store.Store, db *sqldb.DB, opts Options) (*Sales, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Sales{store: st, db: db, opts: opts, gate: gate.New(inTime), at: func(string) error { return nil }}
	s.holds = sqldb.NewGroup(db, s.reserveAll)
	s.work, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Start mends what a crash has left in the last ten seconds of changes, and returns. The older ones are compared while buyers come,
// the last ones first, so that a server with a million holds is there as soon as one with none; until its permit was compared, a unit
// that came back in a row whose process died earlier than that is not sold, and a repeat of a hold whose permit the store has lost can
// be told "sold out". It goes on expiring holds and comparing permits with rows until Close. Call it before the first Hold.
func (s *Sales) Start(ctx context.Context) error {
	if err := s.dropCheck(ctx); err != nil {
		return err
	}
	r := &reconciler{sales: s}
	if err := r.latest(ctx); err != nil {
		return err
	}
	s.background(func() { s.until(reconcileEvery, (&reconciler{sales: s, paced: true}).all) })
	s.background(func() { s.every(expireEvery, s.expire) })
	s.background(func() { s.every(lateEvery, s.prolongLate) })
	s.background(func() { s.every(reconcileEvery, r.recent) })
	s.background(func() { s.every(fullEvery, (&reconciler{sales: s, paced: true}).live) })
	s.background(func() { s.every(watchEvery, s.watch) })
	return nil
}

// dropCheck is for a mutant: the tests show that the other layers hold without the CHECK. (On
// SQLite the connection ignores it.)
func (s *Sales) dropCheck(ctx context.Context) error {
	if !mutant.CheckOff || s.db.Dialect() != sqldb.PostgreSQL {
		return nil
	}
	return s.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `ALTER TABLE sales DROP CONSTRAINT IF EXISTS sales_not_oversold`)
		return err
	})
}

// background runs fn in a goroutine that Close waits for, unless it is too late for that.
func (s *Sales) background(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Go(fn)
	}
	return !s.closed
}

// every calls fn until Close. The next call tries again what failed. Errors are logged: the first
// one, what fails still from time to time, and that it works again.
func (s *Sales) every(d time.Duration, fn func(context.Context) error) {
	t := time.NewTicker(d)
	defer t.Stop()
	for l := (failures{log: s.opts.Logger}); s.wait(t.C); {
		if err := fn(s.work); s.work.Err() == nil {
			l.note(err)
		}
	}
}

// until calls fn, at once and then every d, until it has succeeded.
func (s *Sales) until(d time.Duration, fn func(context.Context) error) {
	l := failures{log: s.opts.Logger}
	for err := fn(s.work); s.work.Err() == nil; err = fn(s.work) {
		l.note(err)
		if err == nil || !s.wait(time.After(d)) {
			return
		}
	}
}

// wait says whether there is something to do, and not the end.
func (s *Sales) wait(until <-chan time.Time) bool {
	select {
	case <-until:
		return true
	case <-s.work.Done():
		return false
	}
}

// failures are those of one kind of background work, which are logged now and then.
type failures struct {
	log           *slog.Logger
	since, logged time.Time
}

func (f *failures) note(err error) {
	now := time.Now()
	switch {
	case err == nil && !f.since.IsZero():
		f.log.Info("flashsale: background work goes on", "failed_for", now.Sub(f.since).Round(time.Millisecond))
		f.since, f.logged = time.Time{}, time.Time{}
	case err != nil && now.Sub(f.logged) >= logEvery:
		f.log.Warn("flashsale: background work", "error", err)
		f.logged = now
	}
	if err != nil && f.since.IsZero() {
		f.since = now
	}
}

// Close ends the background work and returns when no goroutine is left.
func (s *Sales) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
	return nil
}

type counters struct {
	held, replayed, soldOut, fromMark, limited, released, expired, confirmed, cancelled, mended, rebuilt atomic.Int64
}

// Stats counts what this process did since it started.
type Stats struct {
	Held, Replayed, SoldOut, SoldOutFromMark, Limited int64
	Released, Expired, Confirmed, Cancelled           int64
	Mended                                            int64 // permits that did not agree with SQL
	Rebuilt                                           int64 // gates built from SQL
	Waiting                                           int64 // now: holds that wait for a transaction
}

// Stats returns the counters.
func (s *Sales) Stats() Stats {
	c := &s.stats
	return Stats{
		Held: c.held.Load(), Replayed: c.replayed.Load(), SoldOut: c.soldOut.Load(),
		SoldOutFromMark: c.fromMark.Load(), Limited: c.limited.Load(),
		Released: c.released.Load(), Expired: c.expired.Load(), Confirmed: c.confirmed.Load(),
		Cancelled: c.cancelled.Load(), Mended: c.mended.Load(), Rebuilt: c.rebuilt.Load(),
		Waiting: int64(s.holds.Waiting()),
	}
}
