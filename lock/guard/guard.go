// Package guard lets what a lock protects refuse writes of older leases. That is what makes a lock
// safe: a holder can be paused between the look at its lease and its write, for as long as it
// likes, and no lock service can take back what is on its way.
//
// Promised: a resource that was written with a token never takes a write with a smaller one, nor
// with the same one of another owner. The comparison is made in the same step as the write: in
// the same SQL transaction (Check), in the same decision (Put, Pass), so there is nothing
// between them in which anything could happen. It is as durable as what it guards.
//
// Not promised: that a write of an older lease which came first is undone. Guards order
// writes, they do not take them back; whoever reads and then writes does both with one token.
//
// Retries: a write with the token and owner of the last one passes again.
package guard

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"
)

var (
	// ErrStale: the resource has taken a write with a larger token, or with this one of another
	// owner. Nothing was written. The lease has ended: give up what was done under it.
	ErrStale = errors.New("guard: a newer lease has written")
	// ErrInvalid: a resource's name, a token or an owner is out of its bounds. Nothing was written.
	ErrInvalid = errors.New("guard: invalid")
)

// Fence is what a holder shows: its lease's token and owner.
type Fence struct {
	Token int64
	Owner string
}

// Bounds.
const (
	maxResource = 512
	maxOwner    = 200
	maxToken    = 1 << 53
)

func (f Fence) check(resource string) error {
	switch {
	case resource == "" || len(resource) > maxResource || !utf8.ValidString(resource):
		return fmt.Errorf("%w: a resource's name is 1..%d bytes of UTF-8", ErrInvalid, maxResource)
	case f.Token < 1 || f.Token > maxToken:
		return fmt.Errorf("%w: token %d is not in 1..2^53", ErrInvalid, f.Token)
	case len(f.Owner) > maxOwner || !utf8.ValidString(f.Owner):
		return fmt.Errorf("%w: an owner is at most %d bytes of UTF-8", ErrInvalid, maxOwner)
	}
	return nil
}

type fenceKey struct{}

// With gives a context that carries a fence, as HTTP makes it for handlers.
func With(ctx context.Context, f Fence) context.Context { return context.WithValue(ctx, fenceKey{}, f) }

// From is the fence that a context carries.
func From(ctx context.Context) (Fence, bool) {
	f, ok := ctx.Value(fenceKey{}).(Fence)
	return f, ok
}
