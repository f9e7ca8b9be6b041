package drill

import (
	"maps"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

type putIn struct {
	Key    string `store:"key"`
	Score  int64
	Member string
}

type putOut struct{ New bool }

// put is how the data gets there: by the store itself, which the drill does not import.
var put = store.Decide("drill.put", store.Lua(`return {redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])}`),
	func(tx *store.Tx, in putIn) putOut { return putOut{tx.ZAdd(in.Key, in.Score, in.Member)} })

func fill(t *testing.T, url string, key string, permits map[string]int64) {
	t.Helper()
	s, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for member, score := range permits {
		if _, err := put.Do(t.Context(), s, putIn{key, score, member}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPermitsAreReadFromOutside(t *testing.T) {
	want := map[string]int64{"sold": never, "a-b_c": worldStart, "zero": 0, "before": -5}
	stores := map[string]func(t *testing.T) string{
		"file":  func(t *testing.T) string { return "file:" + t.TempDir() },
		"redis": func(t *testing.T) string { return storetest.Redis(t).URL() + "?prefix=shop*[1]:" },
	}
	for name, url := range stores {
		t.Run(name, func(t *testing.T) {
			url := url(t)
			fill(t, url, "sale:{drill-1}:permits", want)
			fill(t, url, "sale:{drill-1}:permits-of-another", map[string]int64{"other": 1})
			fill(t, url, "sale:{drill-12}:permits", map[string]int64{"other": 1})
			e := &evidence{SaleID: "drill-1"}
			if err := readPermits(t.Context(), url, e); err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(e.Permits, want) || !e.StoreRead {
				t.Errorf("%v", e.Permits)
			}
		})
	}
}

func TestPermitsOfNoStore(t *testing.T) {
	if err := readPermits(t.Context(), "file:"+t.TempDir()+"/none", &evidence{SaleID: "x"}); err == nil {
		t.Error("a directory that is not there was read")
	}
	e := &evidence{SaleID: "x"}
	if err := readPermits(t.Context(), "mem:", e); err != nil || e.StoreRead {
		t.Errorf("mem: %v", err)
	}
}

// The run's keys go, and nobody else's, whatever the prefix looks like.
func TestDropKeys(t *testing.T) {
	redis := storetest.Redis(t)
	fill(t, redis.URL()+"?prefix=shop*[1]:drill-1:", "sale:{x}:permits", map[string]int64{"a": 1})
	fill(t, redis.URL()+"?prefix=shopping1:drill-1:", "sale:{x}:permits", map[string]int64{"a": 1})
	fill(t, redis.URL(), "sale:{x}:permits", map[string]int64{"a": 1})
	if err := dropKeys(t.Context(), redis.URL()+"?prefix=shop*[1]:drill-1:"); err != nil {
		t.Fatal(err)
	}
	keys := redis.Admin(t, "KEYS *")
	if strings.Contains(keys, "shop*") || !strings.Contains(keys, "shopping1:") || strings.Count(keys, "permits") != 2 {
		t.Errorf("left: %s", keys)
	}
	if err := dropKeys(t.Context(), redis.URL()); err == nil {
		t.Error("without a prefix it would remove everything")
	}
}
