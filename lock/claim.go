package lock

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Claim is a lease whose holder is elsewhere, behind a network: nothing renews it in the background, and
// whoever knows its Owner and Token renews or releases it, through any Locker on the store. It is always the
// store's token: Options.Fence is not asked.
type Claim struct {
	Name  string
	Owner string
	Token int64
	// Left is what was left of its life when the call returned, as far as is known here. A holder
	// elsewhere counts from before it sent the request that this answers.
	Left time.Duration
}

// ClaimRequest says what is wanted for whom.
type ClaimRequest struct {
	Request
	// Owner is whose it shall be: 1..200 bytes without spaces and control characters, hard to guess, and
	// nobody else's. A lease or a place in line that the owner has already is what it gets.
	Owner string
	// Again tells that the owner may be claimed for again, by somebody who has not heard the answer: a
	// lease that was given meanwhile then stays until its time is over.
	Again bool
	// Wait is how long it stands in line, as long as the context lasts; 0: not at all.
	Wait time.Duration
	// KeepPlace keeps its place for 3 s when that is over, or when the context ends for ErrKeepPlace.
	// It needs Again.
	KeepPlace bool
}

// Claim leases a name for a holder elsewhere. Errors: those of Acquire; when its wait is over ErrHeld, or
// ErrKeepPlace.
func (l *Locker) Claim(ctx context.Context, name string, c ClaimRequest) (Claim, error) {
	r, err := l.check(name, c.Request)
	if err == nil {
		err = checkOwner(c.Owner)
	}
	if err == nil && (c.Wait < 0 || c.KeepPlace && !c.Again) {
		err = invalid("wait", "is negative, or keeps a place for nobody")
	}
	if err != nil {
		return Claim{}, err
	}
	if l.isClosed() {
		return Claim{}, ErrClosed
	}
	a := &attempt{l: l, name: name, r: r, owner: c.Owner, at: placeOf(name), patience: c.Wait, again: c.Again, keepPlace: c.KeepPlace}
	got, err := a.run(ctx)
	if err != nil {
		return Claim{}, fmt.Errorf("lock: %q: %w", name, err)
	}
	return claimed(name, c.Owner, got, a.sent)
}

// claimed is what is left of what was given.
func claimed(name, owner string, got grant, sent time.Time) (Claim, error) {
	left := got.left - time.Since(sent)
	if left <= 0 {
		return Claim{}, fmt.Errorf("lock: %q: %w: its time was over before the answer was there", name, ErrLost)
	}
	return Claim{name, owner, got.token, left}, nil
}

// Renew gives a claim's lease its time again, ttl (100ms..1h) from now, up to the end of its MaxHold.
// Errors: ErrInvalid, ErrLost when it has ended, and the store's.
func (l *Locker) Renew(ctx context.Context, c Claim, ttl time.Duration) (Claim, error) {
	if _, err := l.check(c.Name, Request{TTL: max(ttl, 1)}); err != nil { // 0 is no default here
		return Claim{}, err
	}
	if err := c.check(); err != nil {
		return Claim{}, err
	}
	return l.renew(ctx, c, ttl)
}

func (l *Locker) renew(ctx context.Context, c Claim, ttl time.Duration) (Claim, error) {
	sent := time.Now()
	out, err := renew.Do(ctx, l.store, renewIn{Held: placeOf(c.Name).held, Owner: c.Owner, Token: c.Token, TTL: ttl.Microseconds()})
	switch {
	case err != nil:
		return Claim{}, fmt.Errorf("lock: %q: %w", c.Name, err)
	case out.Token == 0:
		return Claim{}, fmt.Errorf("lock: %q: %w", c.Name, ErrLost)
	}
	return claimed(c.Name, c.Owner, grant{out.Token, time.Duration(out.Left) * time.Microsecond}, sent)
}

// Release ends a claim's lease. Errors: ErrInvalid, ErrLost when it had ended before, also by an earlier
// Release, and the store's.
func (l *Locker) Release(ctx context.Context, c Claim) error {
	if _, err := l.check(c.Name, Request{}); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	outcome, err := l.end(ctx, c.Name, placeOf(c.Name), c.Owner, c.Token)
	switch {
	case err != nil:
		return fmt.Errorf("lock: %q: %w", c.Name, err)
	case outcome != hadLease:
		return fmt.Errorf("lock: %q: %w", c.Name, ErrLost)
	}
	return nil
}

func (c Claim) check() error {
	if c.Token <= 0 {
		return invalid("token", "%d is none", c.Token)
	}
	return checkOwner(c.Owner)
}

func checkOwner(owner string) error {
	if owner == "" || len(owner) > 200 || strings.ContainsFunc(owner, func(r rune) bool { return isControl(r) || r == ' ' }) {
		return invalid("owner", "is not 1..200 bytes without spaces and control characters")
	}
	return nil
}
