package ratelimit

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Algorithm is how a rule counts. Each has a bound: whatever callers do, the units that it admits in any
// interval of length D, less what was given back within the interval, are at most so many. (What Commit
// takes beyond a guess comes on top: it has happened already.) L is the rule's Limit, W its Window, B its
// Burst, and T = ⌈W/L⌉ µs, the time of a unit. An interval is closed: both ends belong to it.
type Algorithm string

// The algorithms.
const (
	// TokenBucket admits B at once and one more each T (GCRA; one number is stored). Bound: B + D/T.
	TokenBucket Algorithm = "token-bucket"
	// LeakyBucket lets callers take turns, a unit each T, and tells each when (Decision.Wait); it refuses
	// a call with which more than B units would wait. Bound, by the time of the turns: C + D/T, where
	// C is the largest cost of a call.
	LeakyBucket Algorithm = "leaky-bucket"
	// FixedWindow admits L in each window; windows begin at multiples of W since 1970. Bound:
	// L × (⌈D/W⌉ + 1); so at the border of two windows 2 L in a moment.
	FixedWindow Algorithm = "fixed-window"
	// SlidingCounter takes the last window's units for evenly spread; two numbers are stored. Bound:
	// L × (1 + D/W); so it is an approximation of at most L in W, by which at worst just under 2 L come in.
	SlidingCounter Algorithm = "sliding-counter"
	// SlidingLog remembers every call of the last W; L is at most 10,000. Bound: L × (⌊D/W⌋ + 1); so
	// never more than L in less than W.
	SlidingLog Algorithm = "sliding-log"
	// Concurrency admits L at the same time; L is at most 10,000. A slot is given back with
	// Decision.Release, or after Lease. Bound: at any moment at most L units have not been given back and
	// began less than Lease ago (a caller that goes on after its lease has ended is not seen).
	Concurrency Algorithm = "concurrency"
)

// Policy is what a rule answers when the store does not.
type Policy string

// The policies.
const (
	// Share admits this process's part of the limit: ⌊limit / processes that live⌋, as many as
	// the store knew when it was last reached, or Options.Processes if it never was. It begins with
	// nothing counted. A part below one unit refuses.
	Share Policy = "share"
	// Open admits everything.
	Open Policy = "open"
	// Closed refuses everything.
	Closed Policy = "closed"
)

// Quota is how much a rule admits.
type Quota struct {
	// Limit is units a Window, for Concurrency at the same time; 1..1,000,000,000.
	Limit int64
	// Window is 1ms..366 days, in whole milliseconds; unused by Concurrency.
	Window time.Duration
	// Burst is the size of a bucket in units, by default Limit; unused by others.
	Burst int64
	// Lease is the life of a slot of Concurrency, 1ms..1h, default 30s.
	Lease time.Duration
}

// Rule is a limit with a name; each Request.Key has its own count of it.
type Rule struct {
	// Name says which rule it is, within its Domain; 1..256 bytes.
	Name string
	// Domain holds the rules that are decided together, by default "default"; up to 128 bytes.
	Domain string
	// Tag is the hash tag of the rule's keys, by default the Domain: on a cluster all keys of a tag are on
	// one shard. Rules of a Domain that are not Independent have one Tag.
	Tag string
	// Independent: the rule need not be decided in one step with others. Each of its keys has a slot of its
	// own, unless it has a Tag.
	Independent bool
	// Algorithm is how it counts; by default TokenBucket.
	Algorithm Algorithm
	Quota
	// Overrides replaces the Quota for some values of Request.Key.
	Overrides map[string]Quota
	// Shadow: it counts, and says when it would refuse, but it never does.
	Shadow bool
	// Blocked refuses everything, Unlimited admits everything; neither asks the store, and their Quota
	// stays empty.
	Blocked, Unlimited bool
	// Leased lets processes lease shares of the budget of keys that are hot (20 units or more in 100 ms), and decide by
	// them without the store: a process holds at most one part in so many, 2..1000, of which 100 is a good choice; 0,
	// the default: each call asks the store. For TokenBucket, FixedWindow and SlidingCounter, with a Window of 100ms or more
	// and a share of 4 units or more; an override with a smaller share is not leased.
	//
	// With N for Leased and c = ⌊L/N⌋ units (of a bucket c = ⌊B/(N × the processes that live)⌋, at least 1): FixedWindow
	// and SlidingCounter keep their bounds as they are, but for c a process each time that the engine's clock jumps
	// ahead. TokenBucket admits up to B + D/T + the sum of all processes' c, which is 1% of B more at most for N = 100, as long
	// as no more processes live than were known. That holds while processes' monotonic clocks and the engine's differ
	// by less than 1% in speed.
	//
	// Of what is wanted at least 98% is admitted for N = 100, however uneven the load, where a Window lasts 1,000 round
	// trips or more: an idle process gives back what it holds within 150 ms and a round trip. One that is killed or
	// paused takes its c with it until the window ends (of a bucket: once). Leases last 1 s at most and end with the window; while
	// the store is gone they are used up, then OnError holds. Reserve and Check always ask the store, to which what is
	// leased counts as taken. A process remembers 4,096 keys; what is not among them asks the store.
	Leased int
	// OnError is what it answers when the store does not; by default Share.
	OnError Policy
}

// Bounds.
const (
	maxRuleName   = 256
	maxDomain     = 128
	maxKey        = 512
	maxLimit      = 1_000_000_000
	maxEntries    = 10_000 // of a log, or leases
	maxWindow     = 366 * 24 * time.Hour
	maxLease      = time.Hour
	maxCounted    = 1 << 48 // units × ms of a sliding counter's window: products stay exact
	defaultDomain = "default"
	defaultLease  = 30 * time.Second
	// worst is how much of a bucket's time rounding to whole µs may cost: one part in so many.
	worst = 100
)

func (r Rule) withDefaults() (Rule, error) {
	if r.Domain == "" {
		r.Domain = defaultDomain
	}
	if r.Tag == "" && !r.Independent {
		r.Tag = r.Domain
	}
	if r.Algorithm == "" {
		r.Algorithm = TokenBucket
	}
	if r.OnError == "" {
		r.OnError = Share
	}
	switch {
	case !plain(r.Name, maxRuleName) || r.Name == "":
		return r, invalid("Name", "%.40q is not 1..%d bytes of UTF-8 without control characters", r.Name, maxRuleName)
	case !plain(r.Domain, maxDomain):
		return r, invalid("Domain", "%.40q is not up to %d bytes of UTF-8 without control characters", r.Domain, maxDomain)
	case !plain(r.Tag, maxDomain):
		return r, invalid("Tag", "%.40q is not up to %d bytes of UTF-8 without control characters", r.Tag, maxDomain)
	case r.OnError != Share && r.OnError != Open && r.OnError != Closed:
		return r, invalid("OnError", "%.40q is not share, open or closed", r.OnError)
	case r.Leased != 0 && (r.Leased < 2 || r.Leased > 1000):
		return r, invalid("Leased", "%d is not in 2..1000", r.Leased)
	case r.Blocked && r.Unlimited:
		return r, invalid("Unlimited", "and Blocked exclude each other")
	case (r.Blocked || r.Unlimited) && (r.Quota != Quota{} || len(r.Overrides) > 0):
		return r, invalid("Limit", "of a rule that is blocked or unlimited stays empty")
	}
	return r, nil
}

// plain says whether a name may stand in a key.
func plain(s string, most int) bool {
	return len(s) <= most && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// kinds are the algorithms as decisions name them.
var kinds = map[Algorithm]string{TokenBucket: kindToken, LeakyBucket: kindLeaky, FixedWindow: kindFixed,
	SlidingCounter: kindCounter, SlidingLog: kindLog, Concurrency: kindConcurrency}

// rate checks a quota and says how a decision gets it.
func (q Quota) rate(a Algorithm) (rate, error) {
	kind, ok := kinds[a]
	switch {
	case !ok:
		return rate{}, invalid("Algorithm", "%.40q is unknown", a)
	case q.Limit < 1 || q.Limit > maxLimit:
		return rate{}, invalid("Limit", "%d is not in 1..%d", q.Limit, maxLimit)
	case (kind == kindLog || kind == kindConcurrency) && q.Limit > maxEntries:
		return rate{}, invalid("Limit", "%d of %s is above %d", q.Limit, a, maxEntries)
	case kind != kindToken && kind != kindLeaky && q.Burst != 0:
		return rate{}, invalid("Burst", "is for buckets only")
	case kind != kindConcurrency && q.Lease != 0:
		return rate{}, invalid("Lease", "is for concurrency only")
	case kind == kindConcurrency:
		return q.lease()
	case q.Window < time.Millisecond || q.Window > maxWindow || q.Window%time.Millisecond != 0:
		return rate{}, invalid("Window", "%s is not in 1ms..%s, in whole milliseconds", q.Window, maxWindow)
	case kind == kindToken || kind == kindLeaky:
		return q.bucket(kind)
	case kind == kindCounter && q.Limit > maxCounted/q.Window.Milliseconds():
		return rate{}, invalid("Limit", "%d in %s is more than a sliding counter can count exactly (%d)", q.Limit, q.Window, maxCounted/q.Window.Milliseconds())
	}
	return rate{kind, q.Limit, q.Window.Microseconds()}, nil
}

// leasable refuses leases where they would not keep the algorithm's promise, or would not be worth it.
func (r Rule) leasable(most int64) error {
	switch {
	case r.Leased == 0:
		return nil
	case r.Blocked || r.Unlimited:
		return invalid("Leased", "is for rules with a limit")
	case r.Algorithm == SlidingLog:
		return invalid("Leased", "is not for %s, which remembers when each call was: of leased units only the lease's time is known", r.Algorithm)
	case r.Algorithm == LeakyBucket:
		return invalid("Leased", "is not for %s, in which each caller has a turn behind all others", r.Algorithm)
	case r.Algorithm == Concurrency:
		return invalid("Leased", "is not for %s, whose slots are leased one by one", r.Algorithm)
	case r.Window < minLeased:
		return invalid("Leased", "needs a Window of %s or more, not %s", minLeased, r.Window)
	case most < fewLeased*int64(r.Leased):
		return invalid("Leased", "of 1/%d leaves a process less than %d units of %d", r.Leased, fewLeased, most)
	}
	return nil
}

// minLeased is the shortest window of which shares are leased.
const minLeased = 100 * time.Millisecond

func (q Quota) lease() (rate, error) {
	if q.Lease == 0 {
		q.Lease = defaultLease
	}
	switch {
	case q.Window != 0:
		return rate{}, invalid("Window", "is not for concurrency")
	case q.Lease < time.Millisecond || q.Lease > maxLease:
		return rate{}, invalid("Lease", "%s is not in 1ms..%s", q.Lease, maxLease)
	}
	return rate{kindConcurrency, q.Limit, q.Lease.Microseconds()}, nil
}

func (q Quota) bucket(kind string) (rate, error) {
	if q.Burst == 0 {
		q.Burst = q.Limit
	}
	window := q.Window.Microseconds()
	unit := ceil(window, q.Limit)
	switch {
	case q.Burst < 1 || q.Burst > maxLimit:
		return rate{}, invalid("Burst", "%d is not in 1..%d", q.Burst, maxLimit)
	case unit*q.Limit-window > window/worst:
		return rate{}, invalid("Limit", "%d in %s: a unit's time is not in whole microseconds, and rounding it up would cost more than 1%%", q.Limit, q.Window)
	case q.Burst > maxWindow.Microseconds()/unit:
		return rate{}, invalid("Burst", "%d would take more than %s to fill", q.Burst, maxWindow)
	}
	return rate{kind, q.Burst, unit}, nil
}

// limit is a rule, or an override of it, ready to be decided.
type limit struct {
	*Rule
	quota Quota
	rate
	id    string    // in keys
	tag   string    // of its keys; "" if each has its own
	front string    // of its keys, if they have one tag
	lot   string    // of its leases
	parts int64     // a process leases one part in so many; 0: it does not
	words [3]string // kind, most, span
	shade string    // 1 if it is a shadow
}

func newLimit(r *Rule, q Quota) (*limit, error) {
	l := &limit{Rule: r, quota: q, id: escape(r.Name), shade: "0"}
	if r.Shadow {
		l.shade = "1"
	}
	if r.Blocked || r.Unlimited {
		return l, nil
	}
	var err error
	if l.rate, err = q.rate(r.Algorithm); err != nil {
		return nil, err
	}
	l.words = l.rate.words()
	l.called(l.id)
	if parts := int64(r.Leased); parts > 0 && l.most >= fewLeased*parts {
		l.parts = parts
	}
	return l, nil
}

// called gives the limit its id in keys.
func (l *limit) called(id string) {
	if l.id = id; l.Tag != "" {
		l.tag = "limit:{" + escape(l.Tag) + "}:"
		l.front = l.tag + id + ":" + l.kind + ":"
	}
	l.lot = l.front
	if l.Tag == "" {
		l.lot = escape(l.Domain) + "/" + id + "/" + l.kind
	}
}

func (r rate) words() [3]string {
	return [3]string{r.kind, strconv.FormatInt(r.most, 10), strconv.FormatInt(r.span, 10)}
}

var escaper = strings.NewReplacer("%", "%25", ":", "%3A", "/", "%2F", "{", "%7B", "}", "%7D")

// escape keeps parts of a key apart.
func escape(s string) string { return escaper.Replace(s) }

// place is where the count of a key stands: its hash tag, and the whole.
func (l *limit) place(key string) (tag, whole string) {
	if l.Tag == "" {
		tag = "limit:{" + escape(l.Domain) + "/" + l.id + "/" + escape(key) + "}:"
		return tag, tag + l.kind
	}
	return l.tag, l.front + key
}
