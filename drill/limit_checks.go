package drill

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// look judges a round: what its callers were told, and what is left of the rules that are never refilled.
func (r *limitRound) look(ctx context.Context) error {
	r.told()
	r.timed()
	left, err := r.left(ctx, append(sorted(r.pairs()), ruleHeld+"="+r.key))
	if err == nil {
		r.agree(left)
	}
	return err
}

// told judges what callers were told.
func (r *limitRound) told() {
	r.count()
	r.paced(callerEvent.byStore, &r.d.bounds)
	r.paced(callerEvent.byPolicy, &r.d.shares)
	r.byPolicies()
	r.slotted()
	for _, p := range r.players {
		r.comeBack(p)
	}
}

// agree compares what was admitted with what is left.
func (r *limitRound) agree(left map[string]int64) {
	pairs := r.pairs()
	for _, at := range sorted(pairs) {
		pairs[at].agrees(r, at, left, &r.d.parts)
	}
	r.reservations().agrees(r, ruleHeld+"="+r.key, left, &r.d.once)
}

// count counts, and says which answers no package names.
func (r *limitRound) count() {
	f := &r.d.figures
	for _, p := range r.players {
		for _, e := range p.events {
			switch {
			case (e.Kind == "freed" || e.Kind == "settled") && !r.named(p, e):
				r.d.answers.add("%s: nothing was the matter with the store, and units could not be settled: %s", r.where, e.Err)
			case !e.decision():
				continue
			case e.Err != "":
				f.Unknown++
				if !r.named(p, e) {
					r.d.answers.add("%s: nothing was the matter with the store, and caller %d was told: %s", r.where, p.index, e.Err)
				}
			case e.byPolicy():
				f.Policy++
			case e.byStore() && e.Allowed:
				f.Admitted++
			case e.byStore():
				f.Refused++
			default:
				r.d.answers.add("%s: %q decided", r.where, e.Source)
			}
			f.Asked++
			if e.Kind == "slot" && e.Allowed {
				f.Slots++
			}
			if e.Kind == "pair" && e.byStore() && !e.Allowed {
				f.Pairs++
			}
		}
	}
}

// namedAnswers are in those that a package names, beside decisions: that the store did not answer in time, which
// can be so on a busy machine too; and a caller's own deadline for a server.
var namedAnswers = []string{"ratelimit: store: ", "problem:store-unavailable", "problem:outcome-unknown", "Client.Timeout exceeded"}

// named says whether an answer is one that a package names. When the store is in trouble, its server may say anything.
func (r *limitRound) named(p *callerProcess, e callerEvent) bool {
	return e.Err == "" || r.troubled(e.Sent, e.At) || stalledIn(p, e.Sent, e.At) ||
		slices.ContainsFunc(namedAnswers, func(text string) bool { return strings.Contains(e.Err, text) })
}

// troubled: something was the matter with the store at that time.
func (r *limitRound) troubled(from, to int64) bool {
	return r.window.fault != noFault && r.window.overlaps(time.Unix(0, from).Add(-noticed), time.Unix(0, to))
}

// forgot: at that time the store lost its state, or its clock was not that of others.
func (r *limitRound) forgot(from, to int64) bool {
	w := r.window
	return (w.forgets || w.shifts > 0) && w.overlaps(time.Unix(0, from).Add(-w.shifts), time.Unix(0, to))
}

func stalledIn(p *callerProcess, from, to int64) bool {
	return slices.ContainsFunc(p.events, func(e callerEvent) bool { return e.Kind == "stall" && e.At-e.For < to && e.At > from })
}

// paced holds what was admitted against the formulas, for each rule and key.
func (r *limitRound) paced(by func(callerEvent) bool, wrong *findings) {
	byStore := wrong == &r.d.bounds
	all := map[string][]admitted{}
	for _, p := range r.players {
		for _, e := range p.events {
			if (e.Kind == "take" || e.Kind == "alone") && e.Allowed && by(e) && (byStore || e.Rule != ruleOpen && r.knew(p, e)) {
				a := admitted{e.Sent, e.At, e.Units, p.index}
				if ruleNamed(e.Rule).algorithm == "leaky-bucket" { // it counts when the turn is
					a.from, a.to = a.from+e.Wait, a.to+e.Wait
				}
				all[e.Rule+"="+e.Key] = append(all[e.Rule+"="+e.Key], a)
			}
		}
	}
	w := r.window
	if !byStore {
		w = window{}
	}
	for _, at := range sorted(all) {
		name, _, _ := strings.Cut(at, "=")
		rule := ruleNamed(name)
		text, over := "", w
		if rule.algorithm == "leaky-bucket" { // turns that were told before a fault are after it
			over.to = over.to.Add(time.Duration(rule.burst) * rule.unit())
		}
		if !byStore && rule.algorithm == "leaky-bucket" && r.d.direct() {
			// Each process has turns of its own, in its part of the rate.
			text = rule.exceededByParts(all[at], r.d.Callers)
		} else {
			text = rule.exceeded(all[at], over)
		}
		if text == "" && rule.algorithm == "fixed-window" {
			text = rule.overfilled(all[at], w)
		}
		if text != "" {
			wrong.add("%s, %s: %s of %s: %s", r.where, r.store.name, rule.algorithm, at, text)
		}
	}
}

// knowTime is how late a caller may note that it knows of more processes or of fewer.
const knowTime = 200 * time.Millisecond

// knew says whether a caller knew of all others when it was answered. (While they are few that it knows of, or some stand
// still, its part is larger.)
func (r *limitRound) knew(p *callerProcess, e callerEvent) bool {
	known := 0
	if !r.d.direct() {
		known = r.d.Callers // the one that decides is alone
	}
	for _, l := range p.events {
		if l.Kind != "live" || l.At > e.At+int64(knowTime) {
			continue
		}
		if known = l.Live; l.At > e.Sent && known != r.d.Callers {
			return false
		}
	}
	if known == r.d.Callers {
		r.d.figures.Shared++
	}
	return known == r.d.Callers
}

// byPolicies: without the store open admits and closed refuses.
func (r *limitRound) byPolicies() {
	for _, p := range r.players {
		for _, e := range p.events {
			policy := ruleNamed(e.Rule).onError
			if e.Kind != "take" || !e.byPolicy() {
				continue
			}
			switch policy {
			case "open":
				r.d.figures.Opened++
			case "closed":
				r.d.figures.Shut++
			default:
				continue
			}
			if e.Allowed != (policy == "open") {
				r.d.policies.add("%s: caller %d asked %s without the store, admitted: %v", r.where, p.index, e.Rule, e.Allowed)
			}
		}
	}
}

// slotted: no more slots are held at once than there are, unless the store forgot those who had them.
func (r *limitRound) slotted() {
	limit := int(ruleNamed(ruleSlots).limit)
	all := heldSlots(r.players)
	for _, most := range []struct {
		n      int
		counts func(at int64) bool
	}{
		{limit, func(at int64) bool { return !r.forgot(at-int64(slotLease), at) }},
		{2 * limit, func(int64) bool { return true }},
	} {
		if n := mostHeld(all, most.counts); n > most.n {
			r.d.bounds.add("%s, %s: %d slots were held at once, more than %d", r.where, r.store.name, n, most.n)
		}
	}
}

// tellTolerance is what a clock that is read and a timer that fires are apart.
const tellTolerance = 2 * time.Millisecond

// comeBack: who is alone with a rule and was refused comes in when it was told, and not before.
func (r *limitRound) comeBack(p *callerProcess) {
	var before callerEvent
	for _, e := range p.events {
		if e.Kind != "alone" {
			continue
		}
		refused := before.Kind == "alone" && before.byStore() && !before.Allowed && e.byStore() && e.Rule == before.Rule && e.Key == before.Key && e.Units == before.Units
		if refused && !r.forgot(before.Sent-int64(time.Second), e.At) {
			early := e.At+int64(tellTolerance) < before.Sent+before.Wait
			late := e.Sent >= before.At+before.Wait+int64(tellTolerance)
			if early || late {
				r.d.figures.Returned++
			}
			if early && e.Allowed || late && !e.Allowed {
				r.d.told.add("%s: caller %d, alone with %s, was told to come back after %s, and after %s to %s admitted is %v", r.where, p.index, e.Rule,
					time.Duration(before.Wait), time.Duration(e.Sent-before.At), time.Duration(e.At-before.Sent), e.Allowed)
			}
		}
		before = e
	}
}

// tally is what a rule that is never refilled should have counted: at least, and at most, as some answers did not come.
type tally struct{ least, most int64 }

func (t *tally) add(least, most int64) { t.least, t.most = t.least+least, t.most+most }

// agrees compares it with what is left.
func (t *tally) agrees(r *limitRound, at string, left map[string]int64, wrong *findings) {
	name, _, _ := strings.Cut(at, "=")
	n, ok := left[at]
	counted := ruleNamed(name).limit - n
	switch {
	case !ok:
		r.d.goes.add("%s: nobody was told what is left of %s", r.where, at)
	case counted > t.most:
		wrong.add("%s, %s: %s has counted %d units, of which at most %d were ever admitted", r.where, r.store.name, at, counted, t.most)
	case counted < t.least && !r.window.forgets:
		wrong.add("%s, %s: %s has counted %d units, and %d were admitted", r.where, r.store.name, at, counted, t.least)
	}
}

// pairs are calls of two rules, of which one is soon full.
func (r *limitRound) pairs() map[string]*tally {
	all := map[string]*tally{}
	count := func(key string, least, most int64) {
		for rule, units := range map[string]int64{ruleWide: 1, ruleBrim: 3} {
			at := rule + "=" + key
			if all[at] == nil {
				all[at] = &tally{}
			}
			all[at].add(least*units, most*units)
		}
	}
	for _, p := range r.players {
		asked := map[int64]string{}
		for _, e := range p.events {
			switch {
			case e.Kind == "ask" && e.Rule == "pair":
				asked[e.Op] = e.Key
			case e.Kind == "pair" && e.byStore():
				delete(asked, e.Op)
				if e.Allowed {
					count(e.Key, 1, 1)
				} else {
					count(e.Key, 0, 0)
				}
			}
		}
		for _, key := range asked { // nobody knows
			count(key, 0, 1)
		}
	}
	return all
}

// reservations are made again and again by their ids, and settled.
func (r *limitRound) reservations() *tally {
	sum := &tally{}
	for _, p := range r.players {
		made := map[int64]*reserved{}
		for _, e := range p.events {
			if m := made[e.Op]; m != nil {
				r.reservation(m, e)
			} else if e.Kind == "ask" && e.Rule == ruleHeld {
				made[e.Op] = &reserved{guess: e.Units}
			}
		}
		for _, m := range made {
			sum.add(m.units())
		}
	}
	return sum
}

// reserved is what a caller knows of one reservation.
type reserved struct {
	guess, actual    int64
	yes              int // answers of the store
	settles, settled bool
}

func (r *limitRound) reservation(m *reserved, e callerEvent) {
	switch {
	case e.Kind == "reserved" && e.byStore() && e.Allowed:
		if m.yes++; m.yes > 1 {
			r.d.figures.Repeats++
		}
	case e.Kind == "reserved" && e.byStore():
		r.d.once.add("%s: a reservation of %d units was refused by a rule that has plenty", r.where, e.Units)
	case e.Kind == "settles":
		m.settles, m.actual = true, e.Units
	case e.Kind == "settled" && e.Err == "":
		m.settled = true
	}
}

// units are what it counts, at least and at most.
func (m *reserved) units() (least, most int64) {
	switch {
	case m.settled:
		return m.actual, m.actual
	case m.settles && m.yes > 0:
		return min(m.guess, m.actual), max(m.guess, m.actual)
	case m.yes > 0:
		return m.guess, m.guess
	}
	return 0, m.guess
}

// left asks what is left of some rules, by one more process, when all others have ended.
func (r *limitRound) left(ctx context.Context, of []string) (map[string]int64, error) {
	i := len(r.players)
	if err := r.start(i, "look", "--look", strings.Join(of, ",")); err != nil {
		return nil, err
	}
	p := r.players[i]
	r.until(ctx, func() bool { return ended(p.child.exited) })
	if !ended(p.child.exited) {
		return nil, fmt.Errorf("drill: what is left of the limits was not told\n%s", tail(p.child.log))
	}
	if p.child.err != nil {
		return nil, fmt.Errorf("drill: what is left of the limits: %w\n%s", p.child.err, tail(p.child.log))
	}
	left := map[string]int64{}
	for _, e := range p.events {
		if e.Kind == "look" {
			left[e.Rule+"="+e.Key] = e.Left
		}
	}
	return left, r.catchUp()
}

// sortBy sorts by a number.
func sortBy[T any](all []T, by func(T) int64) {
	slices.SortFunc(all, func(a, b T) int { return cmp.Compare(by(a), by(b)) })
}
