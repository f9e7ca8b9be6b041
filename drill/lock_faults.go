package drill

import (
	"context"
	"fmt"
	"time"
)

// harm lets happen to a holder what was dealt.
func (r *lockRound) harm(ctx context.Context) (happened string, err error) {
	switch r.plannedLock.holder {
	case pauseHolder:
		return r.pauseHolder(ctx)
	case killHolder:
		return r.killOne(ctx, func(s holding) bool { return s.state == holds && s.since.After(r.calm) })
	}
	return r.killOne(ctx, func(s holding) bool { return s.state == asks && time.Since(s.since) > 50*time.Millisecond })
}

// stop stops a holder that is about something.
func (r *lockRound) stop(ctx context.Context, fits func(holding) bool) (h *holderProcess, s holding, err error) {
	p, err := r.halt(ctx, func() *player[holderEvent] {
		if h, s = r.find(ctx, fits); h == nil {
			return nil
		}
		return &h.player
	}, func(*player[holderEvent]) bool {
		s = h.last()
		return fits(s)
	})
	if p == nil {
		return nil, s, err
	}
	return h, s, nil
}

// pauseHolder stops a holder that has looked at its lease for the last time and has not written, until
// another one has had the name and written; then it goes on, and writes.
func (r *lockRound) pauseHolder(ctx context.Context) (happened string, err error) {
	h, s, err := r.stop(ctx, func(s holding) bool { return s.state == holds && s.careless && s.since.After(r.calm) })
	if err != nil || h == nil {
		return "nobody held a name and was about to write", err
	}
	began := time.Now()
	overtaken := r.until(ctx, func() bool { return r.wroteAfter(h.index, s) })
	pauseFor(ctx, r.late-time.Since(began))
	if err := h.child.resume(); err != nil {
		return "", fmt.Errorf("drill: %w", err)
	}
	if !overtaken {
		return fmt.Sprintf("nobody wrote to %s while holder %d was stopped", s.name, h.index), nil
	}
	r.d.figures.Paused++
	var after holding
	r.until(ctx, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		after = h.operation(s.op)
		return after.accepted+after.refused == 2
	})
	if after.refused == 0 {
		return fmt.Sprintf("of holder %d's two late writes to %s %d were accepted and none refused", h.index, s.name, after.accepted), nil
	}
	return "", nil
}

// wroteAfter says whether a later lease than s has written to everything that its name guards.
func (r *lockRound) wroteAfter(but int, s holding) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.holders {
		if h.index == but {
			continue
		}
		for i := len(h.events) - 1; i >= 0; i-- {
			if e := h.events[i]; e.Kind == "got" && e.Name == s.name && e.Token > s.token && h.operation(e.Op).accepted == 2 {
				return true
			}
		}
	}
	return false
}

// killOne kills a holder in the middle of something.
func (r *lockRound) killOne(ctx context.Context, fits func(holding) bool) (happened string, err error) {
	h, _, err := r.stop(ctx, fits)
	if err != nil || h == nil {
		return "nobody was about it", err
	}
	if !r.kill(&h.player) {
		return "it had ended before", nil
	}
	r.d.figures.Killed++
	return "", nil
}
