package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

type takeIn struct {
	Key                 string `store:"key"`
	Period, Burst, Cost int64
}

type takeOut struct{ OK, Wait int64 }

// take is a GCRA limiter: one key is read, compared with the clock, and written.
var take = store.Decide("bench.take", store.Lua(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local period, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + period * cost
local wait = tat - now - period * burst
if wait > 0 then return {0, wait} end
redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PXAT', string.format('%.0f', math.ceil(tat / 1000)))
return {1, 0}
`), func(tx *store.Tx, in takeIn) takeOut {
	now := tx.Now()
	tat := max(tx.Int(in.Key), now) + in.Period*in.Cost
	if wait := tat - now - in.Period*in.Burst; wait > 0 {
		return takeOut{Wait: wait}
	}
	tx.SetInt(in.Key, tat, store.Until(tat))
	return takeOut{OK: 1}
})

func limiter(t *testing.T, url, name string, keys, many int, of string) *measure {
	t.Helper()
	s, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	names := make([]string, keys)
	for i := range names {
		names[i] = fmt.Sprintf("{rule-%d}:tat", i)
	}
	return &measure{name: name, of: of, run: func(t *testing.T, d time.Duration) float64 {
		return callers(t, many, d, func(_ int, n int64) error {
			_, err := take.Do(context.Background(), s, takeIn{names[n%int64(keys)], 1000, 1 << 30, 1})
			return err
		})
	}}
}

// pebbleAlone is the floor of file:: a write of the same size, synced before it is answered.
func pebbleAlone(t *testing.T, name string, many int) *measure {
	t.Helper()
	db, err := pebble.Open(t.TempDir(), &pebble.Options{Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return &measure{name: name, run: func(t *testing.T, d time.Duration) float64 {
		return callers(t, many, d, func(i int, n int64) error {
			var value [17]byte
			binary.BigEndian.PutUint64(value[:], uint64(n))
			return db.Set(fmt.Appendf(nil, "rule-%d:tat", n%1000), value[:], pebble.Sync)
		})
	}}
}

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) {}

var storeGroup = group{
	title: "Store", unit: "decisions/s",
	note: "A GCRA limiter reads a key, compares it with the clock and writes it. `file:` is on disk before the " +
		"answer. redis-server is asked by this module's client over a unix socket, and saves nothing, or every write.",
	open: func(t *testing.T) []*measure {
		plain := storetest.Redis(t).URL()
		always := storetest.Redis(t, "--appendonly", "yes", "--appendfsync", "always").URL()
		file := func() string { return "file:" + t.TempDir() }
		return []*measure{
			limiter(t, "mem:", "`mem:`, 1,000 keys, 64 callers", 1000, 64, ""),
			limiter(t, plain, "redis-server, 1,000 keys, 64 callers", 1000, 64, ""),
			limiter(t, plain, "redis-server, 1,000 keys, 1,000 callers", 1000, 1000, ""),
			pebbleAlone(t, "Pebble alone, 64 callers", 64),
			limiter(t, file(), "`file:`, 1,000 keys, 64 callers", 1000, 64, "Pebble alone, 64 callers"),
			limiter(t, file(), "`file:`, 1 key, 64 callers", 1, 64, "Pebble alone, 64 callers"),
			limiter(t, always, "redis-server `appendfsync always`, 1,000 keys, 64 callers", 1000, 64, ""),
			pebbleAlone(t, "Pebble alone, 1,000 callers", 1000),
			limiter(t, file(), "`file:`, 1,000 keys, 1,000 callers", 1000, 1000, "Pebble alone, 1,000 callers"),
			limiter(t, always, "redis-server `appendfsync always`, 1,000 keys, 1,000 callers", 1000, 1000, ""),
		}
	},
}
