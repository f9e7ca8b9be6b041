package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store/storetest"
)

// sample is one rule of each kind, and some of them once more with other numbers, as after a reload.
// Times are on a grid of 500 µs, so that they meet each other.
var sample = []struct {
	key string
	rate
}{
	{"t", rate{kindToken, 4, 3_000}}, {"t", rate{kindToken, 6, 1_500}}, {"u", rate{kindToken, 5, 2_000}}, {"v", rate{kindToken, 3, 4_000}},
	{"l", rate{kindLeaky, 5, 2_500}},
	{"f", rate{kindFixed, 5, 10_000}}, {"f", rate{kindFixed, 7, 20_000}},
	{"c", rate{kindCounter, 5, 10_000}}, {"c", rate{kindCounter, 2, 10_000}}, {"c", rate{kindCounter, 8, 5_000}},
	{"s", rate{kindLog, 6, 12_000}}, {"s", rate{kindLog, 3, 6_000}},
	{"n", rate{kindConcurrency, 5, 9_000}}, {"n", rate{kindConcurrency, 3, 15_000}},
}

const buckets = 4 // of sample, at its beginning: those of tokens

// plan takes every branch of every decision.
func plan() storetest.Plan {
	const slot = "limit:{sample}:"
	var keys []string
	for _, k := range []string{"t", "u", "v", "l", "f", "c", "s", "n", "r0", "r1", "r2", "p0", "p1", "p2"} {
		keys = append(keys, slot+k)
	}
	keys = append(keys, liveKey)
	next := func(r *rand.Rand, now int64) storetest.Step {
		if r.IntN(20) == 0 {
			return storetest.Do(beat, beatIn{liveKey, fmt.Sprint("p", r.IntN(4)), r.Int64N(3) * 20_000})
		}
		if r.IntN(4) == 0 {
			return storetest.Do(leaseDecision, anyLease(r, now, slot))
		}
		var used, rules []string
		settles, of := r.IntN(4) == 0, sample
		if r.IntN(3) == 0 {
			of = sample[:buckets] // for which there are bodies of their own
		}
		for range 1 + r.IntN(3) {
			s := of[r.IntN(len(of))]
			if slices.Contains(used, slot+s.key) {
				continue
			}
			used = append(used, slot+s.key)
			cost := 1 + r.Int64N(min(3, s.most))
			rules = append(rules, s.kind, strconv.FormatInt(s.most, 10), strconv.FormatInt(s.span, 10), strconv.FormatInt(cost, 10))
			if settles {
				rules = append(rules, strconv.FormatInt(r.Int64N(2*cost+2)-cost+r.Int64N(12)/11*100, 10))
			} else {
				rules = append(rules, strconv.Itoa(r.IntN(5)/4))
			}
		}
		record := r.IntN(3)
		id := fmt.Sprint("id", r.IntN(6))
		if settles {
			in := settleIn{Keys: used, ID: id, Rules: rules, Taken: now - r.Int64N(60)*500}
			if r.IntN(2) == 0 {
				in.CameTo, in.Keys, in.ID = []string{"0", "1", forget}[r.IntN(3)], append(used, slot+"r"+strconv.Itoa(record)), fmt.Sprint("id", record)
			}
			return storetest.Do(settle, in)
		}
		in := takeIn{Keys: used, Mode: r.Int64N(4), ID: id, Life: 20_000 + r.Int64N(80)*500, Rules: rules}
		if in.Mode >= modeReserve {
			in.Keys, in.ID = append(used, slot+"r"+strconv.Itoa(record)), fmt.Sprint("id", record)
		}
		return storetest.Do(take, in)
	}
	pause := func(r *rand.Rand) time.Duration {
		if r.IntN(80) == 0 {
			return 100 * time.Millisecond
		}
		return time.Duration(r.IntN(5)) * 500 * time.Microsecond
	}
	return storetest.Plan{Keys: keys, Next: next, Pause: pause}
}

// anyLease is what a process could ask for, and answers that it could have had.
func anyLease(r *rand.Rand, now int64, slot string) leaseIn {
	s := sample[r.IntN(len(sample))]
	for s.kind != kindToken && s.kind != kindFixed && s.kind != kindCounter {
		s = sample[r.IntN(len(sample))]
	}
	in := leaseIn{Key: slot + s.key, Record: slot + "p" + strconv.Itoa(r.IntN(3)), Kind: s.kind, Most: s.most, Span: s.span,
		Seq: now/500%1_000_000_000 + r.Int64N(3), Known: r.Int64N(7), Held: r.Int64N(3), Want: r.Int64N(6), Parts: 1 + r.Int64N(3),
		Life: r.Int64N(6) * 1000}
	in.Back = r.Int64N(in.Known + 1)
	switch {
	case s.kind == kindToken:
		in.Epoch = now - r.Int64N(8)*500
	case r.IntN(4) > 0:
		in.Epoch = (now/s.span - r.Int64N(2)) * s.span
	}
	return in
}

func TestBothBodies(t *testing.T) { storetest.Diff(t, plan()) }

func TestBothBodiesOnSeveralEngines(t *testing.T) { storetest.DiffSeveral(t, plan()) }

func TestBothBodiesNoticeErrors(t *testing.T) {
	m := func(d, from, to string) storetest.Mutation {
		return storetest.Mutation{Decision: "ratelimit." + d, Old: from, New: to}
	}
	storetest.DiffFinds(t, plan(),
		m("take", "a[i] + cost * span - now - most * span, 0)", "a[i] + cost * span - now - most * span - 1, 0)"),
		m("take", "most - math.ceil((a[i] - now) / span)", "most - math.floor((a[i] - now) / span)"),
		m("take", "redis.call('SET', key, num(a[i]), 'PXAT', at(a[i]))", "redis.call('SET', key, num(a[i]))"),
		m("take", "if a < now then a = now end", ""),
		m("take", "(ARGV[k + 2] - ARGV[k]) * ARGV[k + 1] - now", "(ARGV[k + 2] - ARGV[k]) * ARGV[k + 1] - now + 1"),
		m("take", "refused = refused or ARGV[k + 3] == '0'", "refused = true"),
		m("take", "local takes = not refused and", "local takes ="),
		m("take", "not refused and ARGV[1] == '0'", "not refused"),
		m("take", "if takes and out[i * 4 - 3] == 0 then", "if takes then"),
		m("take", "most - math.ceil((a - now) / span), 0)", "most - math.floor((a - now) / span), 0)"),
		m("take", "left < most and math.max(a", "math.max(a"),
		m("take", ", 'PXAT', string.format('%.0f', math.ceil(a / 1000)))", ")"),
		m("take", "s == start - span then return start, 0, cur end", "s == start - span then return start, 0, 0 end"),
		m("take", "math.min(tonumber(cur), 16 * most)", "math.min(tonumber(cur), most)"),
		m("take", "c[i] * math.ceil(rest / 1000) + (b[i]", "c[i] * math.floor(rest / 1000) + (b[i]"),
		m("take", "(most - cost) * w / b[i])", "(most - cost) * w / b[i] + 1)"),
		m("take", "(most - b[i] - cost) * w / c[i])", "(most - b[i] - cost) * w / c[i] - 1)"),
		m("take", "b[i] + cost > most and rest", "b[i] + cost >= most and rest"),
		m("take", "mine[i] = till and tonumber(till) > now", "mine[i] = till"),
		m("take", "if not mine[i] then a[i] = a[i] + cost end", "a[i] = a[i] + cost"),
		m("take", "not mine[i] or kind == 'n'", "true"),
		m("take", "need = need - weight(all[k])", "need = need - 1"),
		m("take", "if w == 0 and kinds[i] == 'l'", "if kinds[i] == 'l'"),
		m("take", "ARGV[n + 5] == '0' and outcome == 1", "outcome == 1"),
		m("take", "if outcome == 1 and mode ~= '1' and not refuses[i]", "if mode ~= '1' and not refuses[i]"),
		m("take", "if outcome == 1 and mode ~= '1' and", "if outcome == 1 and"),
		m("take", "if settled ~= '' then outcome = 3 elseif", "if"),
		m("take", "elseif mode == '3' then", "elseif mode == '4' then"),
		m("take", " or mode == '3' and not mine[i]", ""),
		m("take", "(mode == '2' or mode == '3') and outcome == 1", "mode == '2' and outcome == 1"),
		m("take", "(mode == '2' or mode == '3') and outcome == 1", "mode == '2' or mode == '3'"),
		m("take", "num(taken), 'PXAT'", "num(now), 'PXAT'"),
		m("take", "kind == 's' and span or 3600000000", "span"),
		m("lease", "if seq <= hadseq", "if seq < hadseq"),
		m("lease", "if empty <= now then", "if false then"),
		m("lease", "empty = now\n", ""),
		m("lease", "start or hadepoch or now", "start or now"),
		m("lease", "cur = math.max(cur + n, 0)", "cur = cur + n"),
		m("lease", "prev = math.max(prev + n, 0)", ""),
		m("lease", "epoch == hadepoch then returns", "false then returns"),
		m("lease", "returns - known + back", "returns - known"),
		m("lease", "known, back, held = 0, 0, 0", "known, back = 0, 0"),
		m("lease", "math.max(share, 1) - held", "math.max(share, 1)"),
		m("lease", "math.floor(share / 4)", "share"),
		m("lease", "known = known + got", ""),
		m("lease", "now + 4 * life", "now + 5 * life"),
		m("lease", "math.min(life, start + span - now)", "life"),
		m("lease", "n < most and wait(n + 1) or 0", "wait(n + 1)"),
		m("lease", "n < most and wait(enough) or 0", "n < most and wait(1) or 0"),
		m("lease", "if ARGV[11] == '0' then", "if false then"),
		m("beat", "'-inf', string.format('%.0f', now)", "'-inf', string.format('%.0f', now - 1)"),
		m("beat", "if ARGV[2] ~= '0'", "if true"),
		m("settle", "return {settled == cameto and 2 or 3}", "return {2}"),
		m("settle", "'KEEPTTL'", "'EX', 3600"),
		m("settle", "taken = tonumber(when)", ""),
		m("settle", "add = math.max(add, 0)", ""),
		m("settle", "if cameto == '-' then", "if false then"),
		m("settle", "or '0'), now) + add * span", "or '0'), 0) + add * span"),
		m("settle", "now + 16 * most * span", "now + 17 * most * span"),
		m("settle", "if tat <= now then", "if tat < now then"),
		m("settle", "math.max(cur + add, 0), prev)", "cur + add, prev)"),
		m("settle", "elseif kind == 'c' and s == start - span then", "elseif false then"),
		m("settle", "if kind == 'n' then add = -cost end", ""),
		m("settle", "till and tonumber(till) > now", "till"),
		m("settle", "if cost + add > 0 then", "if true then"),
		m("settle", "if n > 0 then redis", "if true then redis"),
	)
}
