package lock

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store/storetest"
)

// plan takes every branch of every decision: few names and owners, short lives, all modes, and times
// that meet each other.
func plan() storetest.Plan {
	some := []string{"seat-14B", "pool", sameBucket("pool")}
	var keys []string
	for _, n := range some {
		p := placeOf(n)
		keys = append(keys, p.held, p.queue, p.waiters)
		if n != some[2] {
			keys = append(keys, p.mark, p.names)
		}
	}
	// likely is the token of a lease that was given a moment ago, as often as not.
	likely := func(r *rand.Rand, now int64) int64 { return now - r.Int64N(6)*500 + r.Int64N(4)/3 }
	grid := func(r *rand.Rand, n int64) int64 { return (1 + r.Int64N(n)) * 500 }
	next := func(r *rand.Rand, now int64) storetest.Step {
		name := some[r.IntN(len(some))]
		at := placeOf(name)
		owner := fmt.Sprint("o", min(r.IntN(6), r.IntN(6))) // some come back often enough to meet what they left
		switch r.IntN(12) {
		case 0, 1, 2, 3, 4, 5:
			in := acquireIn{Mark: at.mark, Held: at.held, Queue: at.queue, Waiters: at.waiters, Names: at.names, Name: name, Owner: owner,
				TTL: grid(r, 40), Hold: grid(r, 120), Channel: "c" + owner, MaxWaiters: 2, Who: "some host/1"}
			in.Weight, in.Of = everything, everything
			switch {
			case name == "pool":
				in.Weight, in.Of = 1+r.Int64N(3), 4+r.Int64N(10)/9
			case r.IntN(3) > 0:
				in.Weight = 1
			}
			if r.IntN(4) > 0 {
				in.Alive = grid(r, 60)
			}
			return storetest.Do(acquire, in)
		case 6, 7:
			return storetest.Do(release, releaseIn{at.mark, at.held, at.queue, at.waiters, at.names, name, owner,
				[]int64{0, placeOnly, likely(r, now)}[r.IntN(3)]})
		case 8, 9:
			return storetest.Do(renew, renewIn{at.held, owner, likely(r, now) * r.Int64N(2), grid(r, 60)})
		case 10:
			return storetest.Do(look, lookIn{at.held, at.queue, at.waiters, 1 + r.Int64N(4)})
		}
		return storetest.Do(names, namesIn{at.names, now - 20_000 + r.Int64N(40_000), 1 + r.Int64N(3)})
	}
	pause := func(r *rand.Rand) time.Duration {
		if r.IntN(60) == 0 {
			return 100 * time.Millisecond
		}
		return time.Duration(r.IntN(6)) * 500 * time.Microsecond
	}
	return storetest.Plan{Keys: keys, Next: next, Pause: pause}
}

func sameBucket(name string) string {
	for i := 0; ; i++ {
		if other := fmt.Sprint("n", i); bucketOf(other) == bucketOf(name) {
			return other
		}
	}
}

func TestBothBodies(t *testing.T) { storetest.Diff(t, plan()) }

func TestBothBodiesNoticeErrors(t *testing.T) {
	m := func(d, from, to string) storetest.Mutation {
		return storetest.Mutation{Decision: "lock." + d, Old: from, New: to}
	}
	storetest.DiffFinds(t, plan(),
		m("acquire", "math.min(now + ARGV[5], stop)", "now + ARGV[5]"),
		m("acquire", "'EXISTS', KEYS[2], KEYS[3]", "'EXISTS', KEYS[2]"),
		m("acquire", "if was >= now then", "if was > now then"),
		m("acquire", "token = was + 1", "token = was + 2"),
		m("acquire", "redis.call('SET', KEYS[1], text)", ""),
		m("acquire", "token % 64 == 0 then redis.call('ZREMRANGEBYSCORE', KEYS", "token % 32 == 0 then redis.call('ZREMRANGEBYSCORE', KEYS"),
		m("acquire", "redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', math.ceil(stop / 1000)))", ""),
		m("acquire", "if d <= now then", "if d < now then"),
		m("acquire", "or '0') + 1, now)", "or '0'), now)"),
		m("acquire", "math.min(now + ttl, stop)", "now + ttl"),
		m("acquire", "tonumber(alive) <= now then", "tonumber(alive) < now then"),
		m("acquire", "used + w > of) then return end", "used + w >= of) then return end"),
		m("acquire", "token % 64 == 0 then redis.call('ZREMRANGEBYSCORE', names", "token % 32 == 0 then redis.call('ZREMRANGEBYSCORE', names"),
		m("acquire", "waits >= tonumber(ARGV[9])", "waits > tonumber(ARGV[9])"),
		m("acquire", "if waits == 0 then", "if true then"), // overtakes
		m("acquire", "if mine and alive > 0 then", "if false then"),
		m("acquire", "redis.call('PEXPIREAT', held, at(last))", "redis.call('PEXPIREAT', held, at(stop))"),
		m("acquire", "if used > 0 and of ~= o then return {3, 0, 0, 0} end", ""),
		m("release", "if tonumber(d) > now then was = 1 end", "was = 1"),
		m("release", "w == o or redis.call('HLEN', KEYS[2]) == 0", "w == o"),
		m("release", "grant(ARGV[1])", ""),
		m("release", "meant == 0 or meant == tonumber(token)", "true"),
		m("release", "meant == 0 or meant == tonumber(token)", "meant == 0"),
		m("release", "meant <= 0 and", "meant == 0 and"),
		m("renew", "meant ~= 0 and meant ~= tonumber(token)", "false"),
		m("renew", "meant ~= 0 and meant ~= tonumber(token)", "meant ~= 0"),
		m("renew", "if tonumber(d) <= now", "if tonumber(d) < now"),
		m("renew", "math.min(now + ARGV[3], tonumber(stop))", "now + ARGV[3]"),
		m("look", "(%d+) ')) > now", "(%d+) ')) >= now"),
		m("names", "'LIMIT', 0, ARGV[2]", "'LIMIT', 0, 1"),
	)
}
