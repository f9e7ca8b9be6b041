package ratelimit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

// Allow takes what the requests want of all their rules, or of none. Whether it did is in the
// Decision; an error means that nobody decided: ErrInvalid, ErrSlots, ErrClosed, or ctx ended.
func (l *Limiter) Allow(ctx context.Context, reqs []Request) (Decision, error) {
	return l.decide(ctx, reqs, modeTake, "")
}

// Check is Allow without taking anything.
func (l *Limiter) Check(ctx context.Context, reqs []Request) (Decision, error) {
	return l.decide(ctx, reqs, modeLook, "")
}

func (l *Limiter) decide(ctx context.Context, reqs []Request, mode int64, id string) (Decision, error) {
	if l.ctx.Err() != nil {
		return Decision{}, ErrClosed
	}
	d, steps, err := l.plan(reqs)
	if err != nil {
		return Decision{}, err
	}
	if !d.Allowed || len(steps) == 0 { // blocked, or nothing to ask
		d.sum()
		return d, nil
	}
	if id == "" && mode == modeTake && needsID(steps) {
		id = rand.Text()
	}
	d.Source = FromStore
	for _, s := range steps {
		if err := l.step(ctx, &d, s, mode, id); err != nil {
			d.giveBack(l, mode == modeReserve)
			return Decision{}, err
		}
		if !d.Allowed {
			break
		}
	}
	if !d.Allowed {
		d.giveBack(l, mode == modeReserve)
	}
	d.sum()
	return d, nil
}

// needsID says whether entries will stand in the store.
func needsID(steps []step) bool {
	for _, s := range steps {
		for _, w := range s.all {
			if w.kind == kindLog || w.kind == kindConcurrency {
				return true
			}
		}
	}
	return false
}

// step decides one step, by the store or without it.
func (l *Limiter) step(ctx context.Context, d *Decision, s step, mode int64, id string) error {
	m := made{step: s, where: l.store.Load(), id: id, parts: 1}
	out, err := l.ask(ctx, m.where, m.in(mode, l.opts.ReserveFor, nil))
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("ratelimit: %w", context.Cause(ctx))
		}
		return l.alone(d, s, mode, id)
	}
	if out.Outcome == settledBefore {
		return ErrSettled
	}
	if m.taken = out.Taken; out.Outcome == refused {
		d.Allowed = false
	} else if mode != modeLook {
		d.calls = append(d.calls, m)
	}
	d.note(s, out)
	return nil
}

// ask asks the store, if it is thought to answer.
func (l *Limiter) ask(ctx context.Context, s *store.Store, in takeIn) (out takeOut, err error) {
	err = l.circuit.call(ctx, l.opts.Timeout, func(ctx context.Context) error {
		out, err = take.Do(ctx, s, in)
		return err
	})
	return out, err
}

// in is what the decision gets; only some of the rules, if some is set.
func (m made) in(mode int64, life time.Duration, some func(*wants) bool) takeIn {
	in := takeIn{Mode: mode, ID: m.id, Life: life.Microseconds(), Keys: make([]string, 0, len(m.all)+1), Rules: make([]string, 0, perRule*len(m.all))}
	for _, w := range m.all {
		if some != nil && !some(w) {
			continue
		}
		words := m.words(w)
		in.Keys = append(in.Keys, w.whole)
		in.Rules = append(in.Rules, words[0], words[1], words[2], strconv.FormatInt(w.cost, 10), w.shade)
	}
	if mode == modeReserve {
		in.Keys = append(in.Keys, m.record())
	}
	return in
}

// record is the key of a reservation's record.
func (m made) record() string { return m.tag + ":" + m.id }

// note writes down what the rules said.
func (d *Decision) note(s step, out takeOut) {
	for i, w := range s.all {
		f := out.States[i*perState:]
		w.passed = f[0] == "1"
		for _, r := range w.requests {
			st := &d.Statuses[r]
			st.Refused, st.Remaining, st.Wait, st.Reset = f[0] == "1", num(f[1]), micros(f[2]), micros(f[3])
		}
	}
}

func micros(s string) time.Duration { return time.Duration(num(s)) * time.Microsecond }

// sum makes one answer of what the rules said.
func (d *Decision) sum() {
	for i := range d.Statuses {
		st := &d.Statuses[i]
		if st.Refused && st.Wait == 0 {
			st.Wait = st.Quota.Window // it is blocked
		}
		if d.Allowed && !st.Refused || !d.Allowed && st.Refused && !st.Shadow {
			d.Wait = max(d.Wait, st.Wait)
		}
	}
}

// giveBack returns what the call took. It does not wait for long: what cannot be given back counts.
func (d *Decision) giveBack(l *Limiter, reserved bool) {
	if len(d.calls) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.opts.Timeout)
	defer cancel()
	for _, m := range d.calls {
		if err := m.undo(ctx, reserved); err != nil {
			l.opts.Logger.Warn("limits: units could not be given back", "error", err)
		}
	}
	d.calls = nil
}

// undo is settleOnly, and there was no reservation.
func (m made) undo(ctx context.Context, reserved bool) error {
	if !reserved {
		return m.settleOnly(ctx, "")
	}
	in := m.settling("", func(*wants) int64 { return 0 })
	in.CameTo, in.Keys = forget, append(in.Keys, m.record())
	_, err := settle.Do(ctx, m.where, in)
	return err
}

// settleOnly gives back what was taken of the rules of one kind ("": of all), without a record.
func (m made) settleOnly(ctx context.Context, kind string) error {
	in := m.settling(kind, func(*wants) int64 { return 0 })
	if len(in.Keys) == 0 {
		return nil
	}
	_, err := settle.Do(ctx, m.where, in)
	return err
}

// settling is what the decision gets: the rules of one kind ("": of all), and what they came to.
func (m made) settling(kind string, cameTo func(*wants) int64) settleIn {
	in := settleIn{ID: m.id, Taken: m.taken}
	for _, w := range m.all {
		if w.passed || kind != "" && w.kind != kind {
			continue
		}
		words := m.words(w)
		in.Keys = append(in.Keys, w.whole)
		in.Rules = append(in.Rules, words[0], words[1], words[2], strconv.FormatInt(w.cost, 10), strconv.FormatInt(cameTo(w)-w.cost, 10))
	}
	return in
}

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

// alone decides a step without the store.
func (l *Limiter) alone(d *Decision, s step, mode int64, id string) error {
	d.Source = FromPolicy
	parts := l.live.Load()
	if parts == 0 {
		parts = int64(l.opts.Processes)
	}
	mine := made{step: step{tag: s.tag}, where: l.share, id: id, parts: parts}
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
	out, err := take.Do(context.Background(), l.share, mine.in(mode, l.opts.ReserveFor, nil))
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
	if out.Outcome == settledBefore {
		return ErrSettled
	}
	if mine.taken = out.Taken; out.Outcome == refused {
		d.Allowed = false
	} else if mode != modeLook {
		d.calls = append(d.calls, mine)
	}
	d.note(mine.step, out)
	return nil
}

// shareBytes bounds what a process counts alone.
const shareBytes = 64 << 20
