package lock

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// maxSeveral bounds how many names are leased together.
const maxSeveral = 100

// AcquireAll leases several names, all or none, and waits for them as long as ctx lasts. All who
// do so take names in one order, so they cannot wait for each other in a circle, as long as nobody
// asks for more while holding some. Each lease has a token, in the order of the names as given, and
// a life of its own: what needs all of them watches all their contexts. Errors: those of Acquire.
func (l *Locker) AcquireAll(ctx context.Context, names []string, r Request) ([]*Lease, error) {
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
	for k, i := range order {
		lease, err := l.Acquire(ctx, names[i], r)
		if err == nil {
			leases[i] = lease
			continue
		}
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		for _, j := range order[:k] {
			if bad := leases[j].Release(clean); bad != nil && !errors.Is(bad, ErrLost) {
				err = errors.Join(err, bad)
			}
		}
		return nil, err
	}
	return leases, nil
}
