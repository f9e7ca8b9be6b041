package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"
)

// maxSeveral bounds how many names are leased together.
const maxSeveral = 100

// AcquireAll leases several names, all or none, and waits for them as long as ctx lasts. All who
// do so take names in one order, so they cannot wait for each other in a circle, as long as nobody
// asks for more while holding some. Each lease has a token, in the order of the names as given, and
// a life of its own: what needs all of them watches all their contexts. Errors: those of Acquire.
func (l *Locker) AcquireAll(ctx context.Context, names []string, r Request) ([]*Lease, error) {
	return l.acquireAll(ctx, names, rand.Text(), r, endless)
}

func (l *Locker) acquireAll(ctx context.Context, names []string, owner string, r Request, wait time.Duration) ([]*Lease, error) {
	switch sorted := slices.Sorted(slices.Values(names)); {
	case len(names) == 0 || len(names) > maxSeveral:
		return nil, invalid("names", "are %d, not 1..%d", len(names), maxSeveral)
	case len(slices.Compact(sorted)) < len(names):
		return nil, invalid("names", "are not all different")
	}
	order := make([]int, len(names))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(names[a], names[b]) })
	leases := make([]*Lease, len(names))
	until := time.Now().Add(wait)
	for _, i := range order {
		if wait > 0 {
			wait = max(time.Until(until), 0)
		}
		lease, err := l.acquire(ctx, names[i], owner, r, wait)
		if err != nil {
			return nil, errors.Join(err, releaseAll(ctx, leases))
		}
		leases[i] = lease
	}
	return leases, nil
}

// releaseAll gives back those that are there, also when ctx is done.
func releaseAll(ctx context.Context, leases []*Lease) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	for _, lease := range leases {
		if lease == nil {
			continue
		}
		if bad := lease.Release(ctx); bad != nil && !errors.Is(bad, ErrLost) {
			err = errors.Join(err, bad)
		}
	}
	return err
}

// ClaimAll leases several names for a holder elsewhere, all or none, as AcquireAll does; c.Again and
// c.KeepPlace are not for it. Errors: those of Claim, and ErrLost when one had ended before the last was there.
func (l *Locker) ClaimAll(ctx context.Context, names []string, c ClaimRequest) ([]Claim, error) {
	if err := checkOwner(c.Owner); err != nil {
		return nil, err
	}
	if c.Wait < 0 {
		return nil, invalid("wait", "is negative")
	}
	leases, err := l.acquireAll(ctx, names, c.Owner, c.Request, c.Wait)
	if err != nil {
		return nil, err
	}
	claims := make([]Claim, len(leases))
	for i, lease := range leases {
		lease.finish(errHandedOver)
		if claims[i], err = l.renew(ctx, Claim{Name: lease.name, Owner: lease.owner}, lease.r.TTL); err != nil {
			return nil, errors.Join(err, l.endAll(ctx, leases))
		}
	}
	return claims, nil
}

// errHandedOver ends a lease here that goes on elsewhere.
var errHandedOver = errors.New("lock: handed over")

// endAll ends leases that may have been handed over, also when ctx is done.
func (l *Locker) endAll(ctx context.Context, leases []*Lease) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	for _, lease := range leases {
		lease.finish(errHandedOver)
		_, bad := l.end(ctx, lease.name, lease.at, lease.owner, 0)
		err = errors.Join(err, bad)
	}
	return err
}
