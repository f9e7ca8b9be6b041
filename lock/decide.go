package lock

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

// What stands in the store. A name belongs to one of 1,024 buckets, which is the hash tag, so
// that the mark, which outlives every name of its bucket, is one of 1,024.
//
//	mark     string  highest token or ticket of the bucket; never expires
//	held     hash    owner → lease, for one name; goes at the longest end of its leases
//	queue    zset    owner of a waiter → ticket, for one name
//	waiters  hash    owner → waiter, for one name; both go two minutes after the last look
//	names    zset    name → end of its newest lease, for the bucket; trimmed by acquisitions
const buckets = 1024

// lineLife is how long a line is kept after anybody in it has looked, µs.
const lineLife = 120_000_000

// granted is how many waiters one decision gives leases at most.
const granted = 100

func bucketOf(name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return tags[h.Sum32()%buckets]
}

// tags begin the keys of each bucket.
var tags = func() (all [buckets]string) {
	for b := range all {
		all[b] = fmt.Sprintf("lock:{%04d}:", b)
	}
	return all
}()

// place is the keys of a name.
type place struct{ mark, held, queue, waiters, names string }

func placeOf(name string) place {
	b := bucketOf(name)
	// One string, of which each key is a part: this is made for every acquisition.
	all := b + "mark" + b + "names" + b + "held:" + name + b + "queue:" + name + b + "waiters:" + name
	cut := func(n int) (key string) {
		key, all = all[:len(b)+n], all[len(b)+n:]
		return key
	}
	n := len(name)
	return place{mark: cut(4), names: cut(5), held: cut(5 + n), queue: cut(6 + n), waiters: cut(8 + n)}
}

// lease is a value of held. Times are µs by the engine's clock.
type lease struct {
	token, weight, of    int64
	deadline, since, end int64
	who                  string
}

func (l lease) String() string {
	return fmt.Sprintf("%d %d %d %d %d %d %s", l.token, l.weight, l.of, l.deadline, l.since, l.end, l.who)
}

func parseLease(v string) (l lease) {
	f := strings.SplitN(v, " ", 7)
	if len(f) == 7 {
		l = lease{num(f[0]), num(f[1]), num(f[2]), num(f[3]), num(f[4]), num(f[5]), f[6]}
	}
	return l
}

// waiter is a value of waiters.
type waiter struct {
	weight, of       int64
	alive, ttl, hold int64
	who, channel     string
}

func (w waiter) String() string {
	return fmt.Sprintf("%d %d %d %d %d %s\n%s", w.weight, w.of, w.alive, w.ttl, w.hold, w.who, w.channel)
}

func parseWaiter(v string) (w waiter) {
	head, channel, _ := strings.Cut(v, "\n")
	f := strings.SplitN(head, " ", 6)
	if len(f) == 6 {
		w = waiter{num(f[0]), num(f[1]), num(f[2]), num(f[3]), num(f[4]), f[5], channel}
	}
	return w
}

func num(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64) // only our own decisions write them
	return n
}

// table is a name within one decision.
type table struct {
	tx   *store.Tx
	at   place
	name string
	now  int64

	used, of     int64 // permits of leases that live; of how many
	soonest, end int64 // when the first of them ends; when the longest may end
}

// scan counts the leases that live and removes those that have ended.
func (t *table) scan() {
	for owner, v := range t.tx.HAll(t.at.held) {
		l := parseLease(v)
		if l.deadline <= t.now {
			t.tx.HDel(t.at.held, owner)
			continue
		}
		t.count(l)
	}
}

func (t *table) count(l lease) {
	t.used, t.of, t.end = t.used+l.weight, l.of, max(t.end, l.end)
	if t.soonest == 0 || l.deadline < t.soonest {
		t.soonest = l.deadline
	}
}

// draw is the next token or ticket of the bucket.
func (t *table) draw() int64 {
	n := max(t.tx.Int(t.at.mark)+1, t.now)
	if !mutant.MarkLost {
		t.tx.SetInt(t.at.mark, n, store.Forever)
	}
	return n
}

func (t *table) lease(owner string, w waiter) lease {
	l := lease{token: t.draw(), weight: w.weight, of: w.of, deadline: t.now + min(w.ttl, w.hold), since: t.now, end: t.now + w.hold, who: w.who}
	t.tx.HSet(t.at.held, owner, l.String())
	t.count(l)
	t.tx.Expire(t.at.held, store.Until(t.end))
	t.tx.ZAdd(t.at.names, t.end, t.name)
	if l.token%64 == 0 {
		t.tx.ZRemRange(t.at.names, store.MinInt, t.now)
	}
	return l
}

// head is the waiter who is next.
func (t *table) head() (owner string, w waiter, ok bool) {
	first := t.tx.ZRange(t.at.queue, store.MinInt, store.MaxInt, 1)
	if len(first) == 0 {
		return "", w, false
	}
	v, _ := t.tx.HGet(t.at.waiters, first[0].Name)
	return first[0].Name, parseWaiter(v), true
}

// grant gives what is free to those who have waited longest, and passes over those who died.
func (t *table) grant() {
	for range granted {
		owner, w, ok := t.head()
		if !ok {
			return
		}
		dead := w.alive <= t.now
		if !dead && t.used > 0 && (w.of != t.of || !t.room(w.weight)) {
			return
		}
		t.leave(owner)
		if !dead {
			l := t.lease(owner, w)
			t.tx.NotifyKept(w.channel, fmt.Sprintf("%s %d", owner, l.token))
		}
	}
}

// room says whether there is so much left of the name.
func (t *table) room(weight int64) bool {
	return t.used+weight <= t.of || mutant.SharesOff && weight < t.of
}

// leave takes a waiter out of the line and says whether it was in it.
func (t *table) leave(owner string) bool {
	t.tx.HDel(t.at.waiters, owner)
	return t.tx.ZRem(t.at.queue, owner) > 0
}

// stay notes that a waiter lives.
func (t *table) stay(owner string, w waiter) {
	t.tx.HSet(t.at.waiters, owner, w.String())
	t.tx.Expire(t.at.waiters, store.Until(t.now+lineLife))
	t.tx.Expire(t.at.queue, store.Until(t.now+lineLife))
}
