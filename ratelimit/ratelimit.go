// Package ratelimit decides whether something may happen now, for any number of callers in any number
// of processes that share a store.
//
// Promised: each algorithm's bound (see [Algorithm]) holds by the engine's clock for all callers
// together, as long as the store keeps what it acknowledged; a store that loses its state may
// admit that much once more. A call decides all its rules or none: what one rule refuses is
// counted by none, and the decision says which refused, what is left, and when to come back. With
// the store gone or slow a call is answered within Options.Timeout, and from the third failure in
// a row on at once, by each rule's [Policy].
//
// Not promised: that a call which was refused comes in when it comes back, since others may be before
// it. That a call with rules in several slots (marked [Rule].Independent) is atomic: Decision.Atomic
// says so. That shares of a limit, while the store is gone, sum up to the limit: they are at most
// that, as long as no more processes live than were known. An engine that evicts keys forgets counts.
//
// Retries: a call that was repeated because its answer was lost may count twice; it never admits too
// much. Reserve, Commit and Refund are idempotent by the reservation's id. Cost: one round trip
// a call, however many rules; none for rules that are blocked or unlimited, and few for hot keys of rules whose
// budget is leased, see [Rule].Leased, which says what that costs in exactness.
package ratelimit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

var (
	// ErrInvalid: a rule, a request or an option is out of its bounds. A *FieldError names it.
	// Nothing was written.
	ErrInvalid = errors.New("ratelimit: invalid")
	// ErrSlots: rules that are to be decided together are in different slots. Give them one Tag, or
	// mark those that need not be atomic with the others as Independent. Nothing was written.
	ErrSlots = errors.New("ratelimit: rules in different slots")
	// ErrNotReserved: the reservation was refused, or it is too old to be settled.
	ErrNotReserved = errors.New("ratelimit: not reserved")
	// ErrSettled: the reservation was settled before, with another outcome.
	ErrSettled = errors.New("ratelimit: settled before")
	// ErrStore: the store did not answer in time, or not at all; wrapped around what it said.
	ErrStore = errors.New("ratelimit: store")
	// ErrClosed: the Limiter was closed.
	ErrClosed = errors.New("ratelimit: closed")
)

// FieldError says which field is out of its bounds. It is an ErrInvalid.
type FieldError struct{ Field, Reason string }

func (e *FieldError) Error() string { return fmt.Sprintf("%v: %s %s", ErrInvalid, e.Field, e.Reason) }

// Unwrap makes it an ErrInvalid.
func (e *FieldError) Unwrap() error { return ErrInvalid }

func invalid(field, format string, args ...any) error {
	return &FieldError{field, fmt.Sprintf(format, args...)}
}

// Options of New. The zero value works.
type Options struct {
	// Processes is how many processes there are at most that share the store's limits: one that has
	// never reached the store takes one part in so many. 1..100,000, default 16.
	Processes int
	// Timeout is the longest that a call waits for the store; 1ms..10s, default 25ms.
	Timeout time.Duration
	// Beat is how often a process tells the others that it lives; it counts as alive for three of
	// them. 10ms..1m, default 5s.
	Beat time.Duration
	// ReserveFor is how long a reservation can be settled; 1s..24h, default 10m.
	ReserveFor time.Duration
	// Strict: each call asks the store, of rules that are Leased too. It is for a store with a clock of its own, which leases
	// would not follow.
	Strict bool
	// Logger gets what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
	// Observe, if set, hears of every decision of Allow and Reserve, and how long it took. It must not wait.
	Observe func(Decision, time.Duration)
}

func (o Options) withDefaults() (Options, error) {
	if o.Processes == 0 {
		o.Processes = 16
	}
	if o.Timeout == 0 {
		o.Timeout = 25 * time.Millisecond
	}
	if o.Beat == 0 {
		o.Beat = 5 * time.Second
	}
	if o.ReserveFor == 0 {
		o.ReserveFor = 10 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	switch {
	case o.Processes < 1 || o.Processes > 100_000:
		return o, invalid("Processes", "%d is not in 1..100000", o.Processes)
	case o.Timeout < time.Millisecond || o.Timeout > 10*time.Second:
		return o, invalid("Timeout", "%s is not in 1ms..10s", o.Timeout)
	case o.Beat < 10*time.Millisecond || o.Beat > time.Minute:
		return o, invalid("Beat", "%s is not in 10ms..1m", o.Beat)
	case o.ReserveFor < time.Second || o.ReserveFor > 24*time.Hour:
		return o, invalid("ReserveFor", "%s is not in 1s..24h", o.ReserveFor)
	}
	return o, nil
}

// Limiter decides by rules. It is safe for concurrent use; one for a process is enough.
type Limiter struct {
	store   atomic.Pointer[store.Store]
	share   *store.Store // in memory: what this process decides alone
	opts    Options
	process string // its name among those that live
	rules   atomic.Pointer[Rules]
	circuit circuit
	leases  leases
	live    atomic.Int64 // processes that lived when the store last said; 0: it never did

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	once   sync.Once
	err    error // of Close
}

// New makes a Limiter on a store, which stays the caller's. Without a store (nil) each rule's Policy
// decides until there is one, see Attach. Errors: ErrInvalid.
func New(s *store.Store, rules *Rules, o Options) (*Limiter, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if rules == nil {
		return nil, invalid("rules", "are missing")
	}
	share, err := store.Open(context.Background(), "mem:", store.Options{MaxBytes: shareBytes})
	if err != nil {
		return nil, fmt.Errorf("ratelimit: a store in memory: %w", err)
	}
	l := &Limiter{share: share, opts: o, process: rand.Text()}
	l.leases.began = time.Now()
	l.rules.Store(rules)
	l.store.Store(s)
	l.circuit.wake = make(chan struct{}, 1)
	l.circuit.open.Store(s == nil)
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.wg.Go(l.keep)
	return l, nil
}

// Attach gives a store to a Limiter that was made without one, because it could not be opened yet.
func (l *Limiter) Attach(s *store.Store) { l.store.Store(s) }

// Rules are what the Limiter decides by now.
func (l *Limiter) Rules() *Rules { return l.rules.Load() }

// Reload replaces the rules. What was counted stays: a rule's state goes by its Domain, its Tag, its Name
// and its Algorithm, and follows changes of its numbers. A window of another length begins anew.
// Calls that have begun end by the rules that they began with.
func (l *Limiter) Reload(rules *Rules) error {
	if rules == nil {
		return invalid("rules", "are missing")
	}
	l.rules.Store(rules)
	return nil
}

// Close takes this process from those that live and returns when no goroutine of l is left. What was
// decided stays decided. A second Close waits for the first and returns its error.
func (l *Limiter) Close(ctx context.Context) error {
	l.once.Do(func() {
		l.leases.mu.Lock()
		l.leases.closed = true
		l.leases.mu.Unlock()
		l.cancel(ErrClosed)
		l.wg.Wait()
		l.closeLeases(ctx)
		ctx, cancel := context.WithTimeout(ctx, l.opts.Timeout)
		defer cancel()
		if s := l.store.Load(); s != nil {
			_, _ = beat.Do(ctx, s, beatIn{Live: liveKey, Process: l.process}) // otherwise it counts for three beats more
		}
		l.err = l.share.Close()
	})
	return l.err
}

// Live is how many processes lived when the store last said so, this one included; 0 if it never did.
func (l *Limiter) Live() int { return int(l.live.Load()) }

// CircuitOpen says whether the store is not asked now, because it did not answer or there is none yet. Each rule's Policy
// decides meanwhile.
func (l *Limiter) CircuitOpen() bool { return l.circuit.open.Load() }

// ReloadFiles is Reload with rule files. With an error in one of them all are refused and the rules stay as
// they are. Errors: those of LoadRules.
func (l *Limiter) ReloadFiles(paths ...string) error {
	rules, err := LoadRules(paths...)
	if err != nil {
		if mutant.HalfReload {
			l.rules.Store(&Rules{})
		}
		return err
	}
	return l.Reload(rules)
}
