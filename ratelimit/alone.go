package ratelimit

import (
	"context"
	"errors"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

// alone decides a step without the store.
func (l *Limiter) alone(d *Decision, s step, mode int64, id string) error {
	d.Source = FromPolicy
	parts := l.live.Load()
	if parts == 0 {
		parts = int64(l.opts.Processes)
	}
	mine := made{step: step{tag: s.tag}, by: l, where: l.share, id: id, kept: mode == modeReserve, parts: parts}
	for _, w := range s.all {
		switch {
		case w.OnError == Open:
		case w.OnError == Closed || w.rate.share(parts).most < w.cost:
			for _, r := range w.requests {
				d.Statuses[r].Refused, d.Statuses[r].Wait = true, l.circuit.retry()
			}
			d.Allowed = d.Allowed && w.Shadow
		default:
			mine.all = append(mine.all, w)
		}
	}
	if !d.Allowed || len(mine.all) == 0 {
		return nil
	}
	out, err := mine.take(context.Background(), mine.in(mode, l.opts.ReserveFor, nil))
	if errors.Is(err, store.ErrClosed) {
		return ErrClosed
	}
	if err != nil { // it is full
		for _, w := range mine.all {
			for _, r := range w.requests {
				d.Statuses[r].Refused = true
			}
		}
		d.Allowed = false
		l.opts.Logger.Warn("limits: this process's share cannot be counted", "error", err)
		return nil
	}
	return d.note(mine, mode, out)
}

// shareBytes bounds what a process counts alone.
const shareBytes = 64 << 20

// words are a rule as the decision gets it, divided by m.parts.
func (m made) words(w *wants) [3]string {
	if m.parts == 1 {
		return w.words
	}
	return w.rate.share(m.parts).words()
}

// share is one of so many parts, rounded down.
func (r rate) share(parts int64) rate {
	if mutant.FullShare {
		return r
	}
	r.most /= parts
	if r.kind == kindToken || r.kind == kindLeaky {
		r.span *= parts
	}
	return r
}
