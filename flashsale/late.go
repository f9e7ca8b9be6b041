package flashsale

import (
	"context"
	"sync"
	"time"
)

// latePermit is one whose row is in SQL and whose time the store has not been told of.
type latePermit struct {
	sale, permit string
	until        time.Time
}

// latePermits wait for a store that was away. The rows would tell too; but the database may be
// away by then, and until the store knows, a repeat is told "sold out".
type latePermits struct {
	mu  sync.Mutex
	all []latePermit
}

// lateMost bounds them; what is beyond, the reconciler finds.
const lateMost = 10_000

func (l *latePermits) add(more ...latePermit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, more[:min(len(more), lateMost-len(l.all))]...)
}

func (l *latePermits) take() []latePermit {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

// prolongLate tells the store of permits that it has not been told of.
func (s *Sales) prolongLate(ctx context.Context) error {
	sales := map[string][]latePermit{}
	for _, p := range s.late.take() {
		sales[p.sale] = append(sales[p.sale], p)
	}
	var failed error
	for sale, late := range sales {
		for len(late) > 0 {
			n := min(len(late), batch)
			if failed == nil {
				failed = s.prolong(ctx, sale, late[:n])
			}
			if failed != nil {
				s.late.add(late[:n]...)
			}
			late = late[n:]
		}
	}
	return failed
}

func (s *Sales) prolong(ctx context.Context, sale string, late []latePermit) error {
	var items []string
	for _, p := range late {
		if left := time.Until(p.until); left > 0 {
			items = append(items, p.permit, lifeOf(left))
		}
	}
	if len(items) == 0 {
		return nil
	}
	return s.extendPermits(ctx, sale, items, nil)
}
