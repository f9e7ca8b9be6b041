// Package lock leases a name to one owner at a time, or to several that share it, with a fencing
// token.
//
// Promised: a name's tokens only grow, also after nobody has held it for long; a lease ends for its
// holder (Lease.Context) before the engine can give the name away, as long as the process runs and
// the engine's clock does not jump; who waits is served in the order of arrival, and one that has
// died is passed over within 3 s, or within a lease's time if it died just as it was served. On a
// store of class A tokens grow whatever fails, and whatever clocks do. On class C a failover to a
// replica that lacks the last acquisitions can give a name away that is held; tokens go on growing
// as long as the new primary's clock is not behind the last token. Options.Fence is for those who
// need more than that.
//
// Not promised: that a holder that was paused has stopped. Between the moment at which a lease ends
// and the moment at which its holder notices lies whatever the holder is about just then. What a lock
// protects has to refuse smaller tokens itself: package lock/guard helps. Without it a lock
// saves work, not data.
//
// Locks are not reentrant: whoever holds a name and asks for it again waits for itself. A second
// lease of one owner would share its end with the first, which is what nested code does not expect.
//
// Retries: acquiring, renewing and releasing are idempotent for one lease. Cost: one round trip each;
// a lease that is handed on to one who waits takes one to begin to wait and none more. Redis has to be 6.2 or
// newer (SET with GET), any Valkey will do.
package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/holdfast-dev/holdfast/store"
)

var (
	// ErrInvalid: a name or an option is out of its bounds; an InvalidError says which. Nothing was sent.
	ErrInvalid = errors.New("lock: invalid")
	// ErrHeld: others hold the name, or wait for it.
	ErrHeld = errors.New("lock: held by others")
	// ErrMode: the name is held with another number of permits.
	ErrMode = errors.New("lock: held with another number of permits")
	// ErrTooMany: Options.MaxWaiters wait already.
	ErrTooMany = errors.New("lock: too many wait")
	// ErrLost: the lease has ended, or it is not known that it has not.
	ErrLost = errors.New("lock: lease lost")
	// ErrReleased: the lease was released. It is what ends a lease's context in the usual case.
	ErrReleased = errors.New("lock: released")
	// ErrKeepPlace: a Claim's wait is over, and its place in line is kept for 3 s, for whoever claims again
	// for the same owner. As the cause of a context's end it ends a wait in the same way.
	ErrKeepPlace = errors.New("lock: not yet; the place in line is kept")
	// ErrClosed: the Locker was closed.
	ErrClosed = errors.New("lock: closed")
)

// InvalidError says which name or option is out of its bounds. It is ErrInvalid.
type InvalidError struct{ Field, Reason string }

func (e *InvalidError) Error() string { return fmt.Sprintf("lock: invalid: %s %s", e.Field, e.Reason) }

// Is says that it is ErrInvalid.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(field, reason string, args ...any) error {
	return &InvalidError{field, fmt.Sprintf(reason, args...)}
}

// Options of New. The zero value works.
type Options struct {
	// TTL is a lease's life without renewal, by the engine's clock; 100ms..1h, default 10s.
	TTL time.Duration
	// MaxHold ends a lease however often it is renewed; TTL..24h, default 1h.
	MaxHold time.Duration
	// MaxWaiters bounds how many wait for one name; 1..100,000, default 10,000.
	MaxWaiters int
	// Who is for people who look at a lock; at most 200 bytes. Default: host name and process id.
	Who string
	// Fence, if set, draws the tokens in the place of the store: each larger than all before, for
	// every name. It is called while the lease is held, and the lease is confirmed after it.
	Fence func(ctx context.Context) (int64, error)
	// Logger gets what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.TTL == 0 {
		o.TTL = 10 * time.Second
	}
	if o.MaxHold == 0 {
		o.MaxHold = max(time.Hour, o.TTL)
	}
	if o.MaxWaiters == 0 {
		o.MaxWaiters = 10_000
	}
	if o.Who == "" {
		host, _ := os.Hostname() // it is for people only
		o.Who = fmt.Sprintf("%.150s/%d", host, os.Getpid())
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	switch {
	case o.TTL < 100*time.Millisecond || o.TTL > time.Hour:
		return o, invalid("ttl", "%s is not in 100ms..1h", o.TTL)
	case o.MaxHold < o.TTL || o.MaxHold > 24*time.Hour:
		return o, invalid("max_hold", "%s is not in the TTL (%s)..24h", o.MaxHold, o.TTL)
	case o.MaxWaiters < 1 || o.MaxWaiters > 100_000:
		return o, invalid("max_waiters", "%d is not in 1..100000", o.MaxWaiters)
	case len(o.Who) > 200 || strings.ContainsFunc(o.Who, isControl):
		return o, invalid("who", "has more than 200 bytes, or control characters")
	}
	return o, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// Locker leases names. It is safe for concurrent use; one for a process is enough.
type Locker struct {
	store   *store.Store
	opts    Options
	channel string // on which this process is woken

	ctx  context.Context
	stop context.CancelCauseFunc
	wg   sync.WaitGroup // renewals and what ends leases

	listening sync.Mutex
	listens   atomic.Bool

	mu     sync.Mutex
	closed bool
	leases map[*Lease]struct{}
	lines  map[string]chan int64 // by owner: the token that a waiter was given
}

// New makes a Locker on a store. Errors: ErrInvalid, and store.ErrConfig where the engine may
// evict keys.
func New(s *store.Store, o Options) (*Locker, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if s.Capabilities().Evicts {
		return nil, fmt.Errorf("%w: the engine may evict keys (its maxmemory-policy is not noeviction): a lock could vanish while it is held", store.ErrConfig)
	}
	l := &Locker{store: s, opts: o, channel: "lock:" + rand.Text(), leases: map[*Lease]struct{}{}, lines: map[string]chan int64{}}
	l.ctx, l.stop = context.WithCancelCause(context.Background())
	return l, nil
}

// Close releases what is held, ends who waits with ErrClosed, and returns when no goroutine of l is
// left. What cannot be released while ctx lasts ends by itself within its TTL.
func (l *Locker) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	var all []*Lease
	for lease := range l.leases {
		all = append(all, lease)
	}
	l.mu.Unlock()
	var errs []error
	for _, lease := range all {
		if err := lease.Release(ctx); err != nil && !errors.Is(err, ErrLost) {
			errs = append(errs, fmt.Errorf("%q: %w", lease.name, err))
		}
	}
	l.stop(ErrClosed)
	l.wg.Wait()
	return errors.Join(errs...)
}

// Request says how a name is wanted. The zero value is an exclusive lease with the Locker's times.
type Request struct {
	// Shared lets others have it at the same time who ask for it shared; an exclusive request that
	// waits is before shared ones that come after it.
	Shared bool
	// Permits of Of: the name is a semaphore of Of permits (1..100,000), of which so many are
	// wanted (1..Of). All who use the name have to say the same Of.
	Permits, Of int64
	// TTL and MaxHold replace the Locker's.
	TTL, MaxHold time.Duration
	// Who replaces the Locker's.
	Who string
}

// Bounds of a request.
const (
	maxName    = 512
	maxPermits = 100_000
	// everything is what an exclusive lease takes of a name that can also be shared.
	everything = 1 << 31
)

// weight is what a request takes, of how much.
func (r Request) weight() (w, of int64) {
	switch {
	case r.Of > 0:
		return r.Permits, r.Of
	case r.Shared:
		return 1, everything
	}
	return everything, everything
}

func (l *Locker) check(name string, r Request) (Request, error) {
	o := l.opts
	if r.TTL != 0 {
		o.TTL = r.TTL
		o.MaxHold = max(o.MaxHold, o.TTL)
	}
	if r.MaxHold != 0 {
		o.MaxHold = r.MaxHold
	}
	if r.Who != "" {
		o.Who = r.Who
	}
	o, err := o.withDefaults()
	if err != nil {
		return r, err
	}
	r.TTL, r.MaxHold, r.Who = o.TTL, o.MaxHold, o.Who
	switch {
	case name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, isControl):
		return r, invalid("name", "is not 1..%d bytes of UTF-8 without control characters", maxName)
	case r.Shared && (r.Permits != 0 || r.Of != 0):
		return r, invalid("shared", "and permits exclude each other")
	case r.Of < 0 || r.Of > maxPermits:
		return r, invalid("of", "%d is not in 1..%d", r.Of, maxPermits)
	case r.Of == 0 && r.Permits != 0 || r.Of > 0 && (r.Permits < 1 || r.Permits > r.Of):
		return r, invalid("permits", "%d is not in 1..of (%d)", r.Permits, r.Of)
	}
	return r, nil
}
