package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/rueidis"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/goredisstore.v9"
	ulule "github.com/ulule/limiter/v3"
	ululeredis "github.com/ulule/limiter/v3/drivers/store/redis"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/store"
)

// decider decides on one unit of a key. An error means that nobody decided.
type decider func(ctx context.Context, key string) error

// perSecond is more than any of them can decide: nobody is refused, so that all do the same work.
const perSecond = 1_000_000

var errRefused = errors.New("refused")

func refusedUnless(ok bool, err error) error {
	if err == nil && !ok {
		return errRefused
	}
	return err
}

// oursOn has so many rules decide in each call.
func oursOn(t *testing.T, url string, rules int) decider {
	s, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var all []ratelimit.Rule
	for i := range rules {
		all = append(all, ratelimit.Rule{Name: fmt.Sprint("rule-", i), Quota: ratelimit.Quota{Limit: perSecond, Window: time.Second}})
	}
	set, err := ratelimit.NewRules(all...)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ratelimit.New(s, set, ratelimit.Options{Timeout: 10 * time.Second}) // the store decides, however long it takes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(l.Close(context.Background()), s.Close()) })
	return func(ctx context.Context, key string) error {
		reqs := make([]ratelimit.Request, rules)
		for i := range reqs {
			reqs[i] = ratelimit.Request{Rule: all[i].Name, Key: key, Cost: 1}
		}
		d, err := l.Allow(ctx, reqs)
		if err == nil && d.Source != ratelimit.FromStore {
			return errors.New("the store did not decide")
		}
		return refusedUnless(d.Allowed, err)
	}
}

func openRedisRate(t *testing.T, path string) decider {
	l := redis_rate.NewLimiter(goRedis(t, path))
	limit := redis_rate.PerSecond(perSecond)
	return func(ctx context.Context, key string) error {
		r, err := l.Allow(ctx, key, limit)
		return refusedUnless(err != nil || r.Allowed > 0, err)
	}
}

// plain is the least that a limiter asks of an engine: one key, one script, pipelined by its client.
var plain = rueidis.NewLuaScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local empty = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + ARGV[1]
if empty - now > ARGV[1] * ARGV[2] then return 0 end
redis.call('SET', KEYS[1], string.format('%.0f', empty), 'PX', math.ceil((empty - now) / 1000))
return 1
`)

func openPlain(t *testing.T, path string) decider {
	option, err := rueidis.ParseURL("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rueidis.NewClient(option)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return func(ctx context.Context, key string) error {
		n, err := plain.Exec(ctx, c, []string{"plain:" + key}, []string{"1", fmt.Sprint(perSecond)}).AsInt64()
		return refusedUnless(n == 1, err)
	}
}

func openThrottled(t *testing.T, path string) decider {
	s, err := goredisstore.NewCtx(goRedis(t, path), "throttled:")
	if err != nil {
		t.Fatal(err)
	}
	l, err := throttled.NewGCRARateLimiterCtx(s, throttled.RateQuota{MaxRate: throttled.PerSec(perSecond), MaxBurst: perSecond})
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, key string) error {
		limited, _, err := l.RateLimitCtx(ctx, key, 1)
		return refusedUnless(!limited, err)
	}
}

func openUlule(t *testing.T, path string) decider {
	s, err := ululeredis.NewStore(goRedis(t, path))
	if err != nil {
		t.Fatal(err)
	}
	l := ulule.New(s, ulule.Rate{Period: time.Second, Limit: perSecond})
	return func(ctx context.Context, key string) error {
		r, err := l.Get(ctx, key)
		return refusedUnless(err != nil || !r.Reached, err)
	}
}

// deciders are this module's limits and its peers' on one Redis, each as one process of several has it.
var deciders = []struct {
	name string
	open func(t *testing.T, path string) decider
}{
	{"ratelimit", func(t *testing.T, path string) decider { return oursOn(t, "unix:"+path, 1) }},
	{"redis_rate", openRedisRate},
	{"a plain script, pipelined", openPlain},
	{"throttled", openThrottled},
	{"ulule/limiter", openUlule},
}

// decided has callers decide for d, and says how many decisions a second there were, and how many of 10,000 calls failed.
func decided(t *testing.T, decide decider, many, keys int, d time.Duration) (rate, failed float64) {
	var all, wrong atomic.Int64
	calls := callers(t, many, d, func(_ int, n int64) error {
		all.Add(1)
		if err := decide(context.Background(), fmt.Sprint("key-", n%int64(keys))); err != nil {
			wrong.Add(1)
		}
		return nil
	})
	share := float64(wrong.Load()) / float64(max(all.Load(), 1))
	return calls * (1 - share), 10_000 * share
}

// patterns are how limits are asked.
var patterns = []struct {
	name       string
	many, keys int
}{
	{", one key, 64 callers", 64, 1},
	{", 1,000 keys, 64 callers", 64, 1000},
	{", one key, 1 caller", 1, 1},
}

func deciding(name string, decide decider, many, keys int, of, also string) *measure {
	return &measure{name: name, of: of, also: also, run: func(t *testing.T, d time.Duration) float64 {
		rate, _ := decided(t, decide, many, keys, d)
		return rate
	}}
}

var limitGroup = group{
	title: "Limits", unit: "decisions/s",
	note: "A token bucket of a million units a second, so that nobody is refused (ulule/limiter counts windows of a second). One redis-server " +
		"over a unix socket that saves nothing; beside it the embedded engines. Only calls that were decided count.",
	open: func(t *testing.T) (rows []*measure) {
		path := redisPath(t)
		opened := make([]decider, len(deciders))
		for i, k := range deciders {
			opened[i] = k.open(t, path)
		}
		mem, file := oursOn(t, "mem:", 1), oursOn(t, "file:"+t.TempDir(), 1)
		for _, p := range patterns {
			for i, k := range deciders {
				of, also := "redis_rate"+p.name, "a plain script, pipelined"+p.name
				if i > 0 {
					of, also = "", ""
				}
				rows = append(rows, deciding(k.name+p.name, opened[i], p.many, p.keys, of, also))
			}
			rows = append(rows, deciding("ratelimit on `mem:`"+p.name, mem, p.many, p.keys, "", ""), deciding("ratelimit on `file:`"+p.name, file, p.many, p.keys, "", ""))
		}
		return rows
	},
}

var limitFailedGroup = group{
	title: "Calls of a hot limit that fail", unit: "of 10,000 calls",
	note: "64 callers of one key, as above. A call that fails was neither admitted nor refused.",
	open: func(t *testing.T) (rows []*measure) {
		path := redisPath(t)
		for _, k := range deciders {
			decide := k.open(t, path)
			rows = append(rows, &measure{name: k.name, run: func(t *testing.T, d time.Duration) float64 {
				_, failed := decided(t, decide, 64, 1, d)
				return failed
			}})
		}
		return rows
	},
}

var limitManyGroup = group{
	title: "Limits of five rules in one call", unit: "calls/s",
	note: "64 callers, 1,000 keys, as above.",
	open: func(t *testing.T) (rows []*measure) {
		for _, on := range []struct{ name, url string }{{"redis-server", "unix:" + redisPath(t)}, {"`mem:`", "mem:"}} {
			one := on.name + ", one rule"
			rows = append(rows, deciding(one, oursOn(t, on.url, 1), 64, 1000, "", ""), deciding(on.name+", five rules", oursOn(t, on.url, 5), 64, 1000, one, ""))
		}
		return rows
	},
}
