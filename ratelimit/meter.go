package ratelimit

import (
	"strconv"
	"strings"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

// What stands in the store: one key a rule and Request.Key, which expires when it says no more than a
// key that is not there. By the rule's kind:
//
//	t, l  string  when the bucket is empty again, µs
//	f     string  "start of the window, µs; units"
//	c     string  "start of the window, µs; units in it; units in the one before"
//	s, n  zset    "units id" → when it no longer counts, µs; "" → 2^53 less all units
//
// Beside them a reservation has a record: a string, "when, µs", and once settled " what it came to".
const (
	kindToken       = "t"
	kindLeaky       = "l"
	kindFixed       = "f"
	kindCounter     = "c"
	kindLog         = "s"
	kindConcurrency = "n"
)

const (
	// worstDebt is how many times what a rule admits at once is remembered at most: sums stay exact.
	worstDebt = 16

	latest = 1 << 52       // no entry counts longer, µs
	hour   = 3_600_000_000 // the longest lease, µs
)

// rate is a rule as a decision gets it.
type rate struct {
	kind       string
	most, span int64 // units; µs: of one unit, of the window, of a lease
}

// meter is one rule's state within one decision.
type meter struct {
	tx  *store.Tx
	key string
	now int64
	rate

	empty           int64 // t, l: when the bucket is empty, not before now
	start           int64 // f, c: of the window
	cur, prev, used int64 // units: f, c; f, c; s, n
	mine            bool  // s, n: an entry of this call counts already
}

// load reads the state; an entry of cost and id would be the call's own.
func load(tx *store.Tx, key string, r rate, cost int64, id string) meter {
	m := meter{tx: tx, key: key, now: tx.Now(), rate: r}
	switch r.kind {
	case kindToken, kindLeaky:
		m.empty = max(tx.Int(key), m.now)
	case kindFixed, kindCounter:
		m.loadWindow()
	default:
		m.used = m.total()
		if !mutant.LeaseKept {
			for _, e := range tx.ZRange(key, store.MinInt, m.now, 0) {
				m.used -= weight(e.Name)
			}
		}
		till, _ := tx.ZScore(key, entry(cost, id))
		m.mine = till > m.now
	}
	return m
}

func (m *meter) loadWindow() {
	m.start = m.now / m.span * m.span
	v, ok := m.tx.Get(m.key)
	if !ok {
		return
	}
	start, units, _ := strings.Cut(v, " ")
	curText, prevText, _ := strings.Cut(units, " ")
	cur, prev := min(num(curText), worstDebt*m.most), min(num(prevText), worstDebt*m.most)
	switch {
	case num(start) == m.start:
		m.cur, m.prev = cur, prev
	case m.kind == kindCounter && num(start) == m.start-m.span:
		m.prev = cur
	}
}

func (m *meter) storeWindow() {
	switch {
	case m.cur == 0 && m.prev == 0:
		m.tx.Del(m.key)
	case m.kind == kindFixed:
		m.tx.Set(m.key, spaced(m.start, m.cur), store.Until(m.start+m.span))
	default:
		m.tx.Set(m.key, spaced(m.start, m.cur, m.prev), store.Until(m.start+2*m.span))
	}
}

// total is how many units all entries have, those that no longer count included.
func (m *meter) total() int64 {
	if score, ok := m.tx.ZScore(m.key, ""); ok {
		return store.MaxInt - score
	}
	return 0
}

func (m *meter) storeTotal(n int64) {
	if n > 0 {
		m.tx.ZAdd(m.key, store.MaxInt-n, "")
	} else {
		m.tx.ZRem(m.key, "")
	}
}

// left is how many units could be taken.
func (m *meter) left() int64 {
	var n int64
	switch m.kind {
	case kindToken, kindLeaky:
		n = m.most - ceil(m.empty-m.now, m.span)
	case kindFixed:
		n = m.most - m.cur
	case kindCounter:
		n = m.most - m.cur - ceil(m.prev*ceil(m.rest(), 1000), m.span/1000)
	default:
		n = m.most - m.used
	}
	return max(n, 0)
}

// rest is how long the window lasts yet.
func (m *meter) rest() int64 { return m.start + m.span - m.now }

// wait is how long it takes until so many units can be taken, 0 if they can now.
func (m *meter) wait(cost int64) int64 {
	switch m.kind {
	case kindToken, kindLeaky:
		return max(m.empty+cost*m.span-m.now-m.most*m.span, 0)
	case kindFixed:
		if m.cur+cost > m.most {
			return m.rest()
		}
		return 0
	case kindCounter:
		return m.waitCounter(cost)
	}
	return m.waitEntries(cost)
}

// waitCounter counts in whole milliseconds, against the caller.
func (m *meter) waitCounter(cost int64) int64 {
	w := m.span / 1000
	if m.cur+cost > m.most { // not in this window
		return m.rest() + m.span - (m.most-cost)*w/m.cur*1000
	}
	if m.prev*ceil(m.rest(), 1000)+(m.cur+cost)*w <= m.most*w {
		return 0
	}
	return m.rest() - (m.most-m.cur-cost)*w/m.prev*1000
}

func (m *meter) waitEntries(cost int64) int64 {
	need := m.used + cost - m.most
	if need <= 0 {
		return 0
	}
	for _, e := range m.tx.ZRange(m.key, m.now+1, latest, int(need)) {
		if need -= weight(e.Name); need <= 0 {
			return e.Score - m.now
		}
	}
	return m.span
}

func (m *meter) take(cost int64, id string) {
	switch m.kind {
	case kindToken, kindLeaky:
		m.empty += cost * m.span
		m.tx.SetInt(m.key, m.empty, store.Until(m.empty))
	case kindFixed, kindCounter:
		m.cur += cost
		m.storeWindow()
	default:
		m.takeEntry(cost, id)
	}
}

func (m *meter) takeEntry(cost int64, id string) {
	if m.mine && m.kind == kindLog {
		return
	}
	if !m.mine {
		m.used += cost
	}
	m.tx.ZRemRange(m.key, store.MinInt, m.now)
	m.tx.ZAdd(m.key, m.now+m.span, entry(cost, id))
	m.storeTotal(m.used)
	life := int64(hour) // a lease that was given before can be longer than those of today
	if m.kind == kindLog {
		life = m.span
	}
	m.tx.Expire(m.key, store.Until(m.now+life))
}

// settle adds units to what was taken at some time, or gives some of it back (add < 0).
func (m *meter) settle(taken, cost, add int64, id string) {
	if m.kind == kindLeaky {
		add = max(add, 0) // others have the turns behind it already
	}
	switch m.kind {
	case kindToken, kindLeaky:
		m.empty = min(m.empty+add*m.span, m.now+worstDebt*m.most*m.span)
		if m.empty <= m.now {
			m.tx.Del(m.key)
		} else {
			m.tx.SetInt(m.key, m.empty, store.Until(m.empty))
		}
	case kindFixed, kindCounter:
		switch start := taken / m.span * m.span; {
		case start == m.start:
			m.cur = max(m.cur+add, 0)
		case m.kind == kindCounter && start == m.start-m.span:
			m.prev = max(m.prev+add, 0)
		default:
			return // it no longer counts
		}
		m.storeWindow()
	default:
		m.settleEntry(cost, add, id)
	}
}

func (m *meter) settleEntry(cost, add int64, id string) {
	if !m.mine {
		return
	}
	if m.kind == kindConcurrency {
		add = -cost
	}
	till, _ := m.tx.ZScore(m.key, entry(cost, id))
	sum := m.total() + add
	m.tx.ZRem(m.key, entry(cost, id))
	if cost+add > 0 {
		m.tx.ZAdd(m.key, till, entry(cost+add, id))
	}
	m.storeTotal(sum)
}

func entry(cost int64, id string) string { return strconv.FormatInt(cost, 10) + " " + id }

func weight(entry string) int64 {
	n, _, _ := strings.Cut(entry, " ")
	return num(n)
}

// spaced are numbers with spaces between them.
func spaced(all ...int64) string {
	b := make([]byte, 0, 64)
	for i, n := range all {
		if i > 0 {
			b = append(b, ' ')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(b)
}

func num(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64) // only our own decisions write them
	return n
}

// ceil is a/b rounded up, a ≥ 0.
func ceil(a, b int64) int64 { return (a + b - 1) / b }
