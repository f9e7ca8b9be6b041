package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// taker takes a lock and returns what gives it back.
type taker func(ctx context.Context, name string) (release func(), err error)

const lockLife = 10 * time.Second

// lockers are this module's locks and its peers', each as one process of several has it.
var lockers = []locker{
	{"lock, with fencing tokens", openOurs, []string{"evalsha", "eval"}},
	{"rueidislock", openRueidis, []string{"evalsha", "eval"}},
	{"redislock", openRedislock, []string{"evalsha", "eval"}},
	{"redsync", openRedsync, []string{"set", "evalsha", "eval"}},
}

type locker struct {
	name  string
	open  func(t *testing.T, path string) taker
	sends []string // commands; what its scripts do in the engine is not among them
}

func openOurs(t *testing.T, path string) taker { return oursAt(t, "unix:"+path) }

func oursAt(t *testing.T, url string) taker {
	s, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := lock.New(s, lock.Options{TTL: lockLife})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(l.Close(context.Background()), s.Close()) })
	return func(ctx context.Context, name string) (func(), error) {
		lease, err := l.Acquire(ctx, name, lock.Request{})
		if err != nil {
			return nil, err
		}
		return func() { _ = lease.Release(context.Background()) }, nil
	}
}

func openRueidis(t *testing.T, path string) taker {
	client, err := rueidis.ParseURL("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := rueidislock.NewLocker(rueidislock.LockerOption{ClientOption: client, KeyMajority: 1, NoLoopTracking: true, KeyValidity: lockLife})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return func(ctx context.Context, name string) (func(), error) {
		_, release, err := l.WithContext(ctx, name)
		return release, err
	}
}

func goRedis(t *testing.T, path string) *redis.Client {
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: path, PoolSize: 64})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func openRedislock(t *testing.T, path string) taker {
	l := redislock.New(goRedis(t, path))
	return func(ctx context.Context, name string) (func(), error) {
		// Its default gives up at once; this is how its documentation waits.
		held, err := l.Obtain(ctx, name, lockLife, &redislock.Options{RetryStrategy: redislock.LinearBackoff(5 * time.Millisecond)})
		if err != nil {
			return nil, err
		}
		return func() { _ = held.Release(context.Background()) }, nil
	}
}

func openRedsync(t *testing.T, path string) taker {
	l := redsync.New(goredis.NewPool(goRedis(t, path)))
	return func(ctx context.Context, name string) (func(), error) {
		m := l.NewMutex(name, redsync.WithExpiry(lockLife), redsync.WithTries(1<<20))
		if err := m.LockContext(ctx); err != nil {
			return nil, err
		}
		return func() { _, _ = m.UnlockContext(context.Background()) }, nil
	}
}

func redisPath(t *testing.T) string { return strings.TrimPrefix(storetest.Redis(t).URL(), "unix:") }

var lockGroup = group{
	title: "Locks that nobody else wants", unit: "acquisitions with release/s",
	note: "One redis-server over a unix socket that saves nothing; every caller takes names of its own. One caller's " +
		"rate is the reciprocal of what it waits.",
	open: func(t *testing.T) (rows []*measure) {
		path := redisPath(t)
		for _, many := range []int{64, 1} {
			who := fmt.Sprintf(", %d callers", many)
			if many == 1 {
				who = ", 1 caller"
			}
			best := "rueidislock" + who
			for _, k := range lockers {
				take := k.open(t, path)
				m := &measure{name: k.name + who, of: best, run: func(t *testing.T, d time.Duration) float64 {
					return callers(t, many, d, func(i int, n int64) error {
						release, err := take(context.Background(), fmt.Sprintf("%s-%d-%d", k.name, i, n%100))
						if err == nil {
							release()
						}
						return err
					})
				}}
				if m.name == best {
					m.of = ""
				}
				rows = append(rows, m)
			}
		}
		return rows
	},
}
