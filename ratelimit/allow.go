package ratelimit

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"time"
)

// Allow takes what the requests want of all their rules, or of none. Whether it did is in the
// Decision; an error means that nobody decided: ErrInvalid, ErrSlots, ErrClosed, or ctx ended.
func (l *Limiter) Allow(ctx context.Context, reqs []Request) (Decision, error) {
	return l.observed(ctx, reqs, modeTake, "")
}

// Check is Allow without taking anything.
func (l *Limiter) Check(ctx context.Context, reqs []Request) (Decision, error) {
	return l.decide(ctx, reqs, modeLook, "")
}

func (l *Limiter) decide(ctx context.Context, reqs []Request, mode int64, id string) (Decision, error) {
	if l.ctx.Err() != nil {
		return Decision{}, ErrClosed
	}
	var holds *leased
	leases := mode == modeTake && !l.opts.Strict
	if leases && len(reqs) == 1 {
		d, a, ok := l.allowLeased(ctx, reqs[0])
		if ok {
			return d, nil
		}
		holds = a
	}
	d, steps, err := l.plan(reqs, false)
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
	var took []used
	switch {
	case holds != nil:
		steps[0].all[0].holds = holds
	case leases && len(reqs) > 1 && anyLeased(steps):
		keys := keysOf(steps)
		steps, took = l.takeLeased(ctx, &d, steps)
		d.Atomic = d.Atomic && (keys < 2 || keys == keysOf(steps)) // what was held was taken key by key
		if d.Source = FromLease; !d.Allowed || len(steps) == 0 {
			if !d.Allowed {
				giveUsed(took)
			}
			d.sum()
			return d, nil
		}
	}
	d.Source = FromStore
	for _, s := range steps {
		if err := l.step(ctx, &d, s, mode, id); err != nil {
			giveUsed(took)
			d.giveBack(l, mode == modeReserve)
			return Decision{}, err
		}
		if !d.Allowed {
			break
		}
	}
	if !d.Allowed {
		giveUsed(took)
		d.giveBack(l, mode == modeReserve)
	}
	d.sum()
	return d, nil
}

// keysOf is how many keys there are in steps.
func keysOf(steps []step) (n int) {
	for _, s := range steps {
		n += len(s.all)
	}
	return n
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
	m := made{step: s, by: l, where: l.store.Load(), id: id, kept: mode == modeReserve, parts: 1}
	out, err := m.take(ctx, m.in(mode, l.opts.ReserveFor, nil))
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("ratelimit: %w", context.Cause(ctx))
		}
		return l.alone(d, s, mode, id)
	}
	defer l.learn(d, s)
	return d.note(m, mode, out)
}

// take and settle make a decision where the step is counted: by the store, if it is thought to answer.
func (m made) take(ctx context.Context, in takeIn) (out takeOut, err error) {
	err = m.call(ctx, func(ctx context.Context) error {
		out, err = take.Do(ctx, m.where, in)
		return err
	})
	return out, err
}

func (m made) settle(ctx context.Context, in settleIn) (out settleOut, err error) {
	err = m.call(ctx, func(ctx context.Context) error {
		out, err = settle.Do(ctx, m.where, in)
		return err
	})
	return out, err
}

func (m made) call(ctx context.Context, fn func(context.Context) error) error {
	switch m.where {
	case m.by.share:
		return fn(ctx)
	case nil: // there was none yet when the call began
		return errOpen
	}
	return m.by.circuit.call(ctx, m.by.opts.Timeout, fn)
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
	if mode == modeReserve || mode == modeRenew {
		in.Keys = append(in.Keys, m.record())
	}
	return in
}

// record is the key of a reservation's record.
func (m made) record() string { return m.tag + ":" + m.id }

// note writes down what the rules of a step said.
func (d *Decision) note(m made, mode int64, out takeOut) error {
	if out.Outcome == settledBefore {
		return ErrSettled
	}
	if m.taken = out.Taken; out.Outcome == refused {
		d.Allowed = false
	} else if mode != modeLook {
		d.calls = append(d.calls, m)
	}
	for i, w := range m.all {
		f := out.States[i*perState:]
		w.passed = w.Shadow && f[0] == "1"
		for _, r := range w.requests {
			st := &d.Statuses[r]
			st.Refused, st.Remaining, st.Wait, st.Reset = f[0] == "1", num(f[1]), micros(f[2]), micros(f[3])
			if out.Outcome == reservedBefore && !w.Shadow && st.Refused { // it was admitted then
				st.Refused, st.Wait = false, 0
			}
		}
	}
	return nil
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
	for _, m := range d.calls {
		if err := m.undo(context.Background(), reserved); err != nil {
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
	_, err := m.settle(ctx, in)
	return err
}

// settleOnly gives back what was taken of the rules of one kind ("": of all), without a record.
func (m made) settleOnly(ctx context.Context, kind string) error {
	in := m.settling(kind, func(*wants) int64 { return 0 })
	if len(in.Keys) == 0 {
		return nil
	}
	_, err := m.settle(ctx, in)
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
