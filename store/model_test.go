package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// The model of a Tx: maps. What it says is what the package promises of the data model.
type model struct {
	now  int64 // µs
	keys map[string]value
}

type value struct {
	typ      string
	text     string
	hash     map[string]string
	zset     map[string]int64
	deadline int64 // ms
}

func (v value) clone() value {
	v.hash, v.zset = maps.Clone(v.hash), maps.Clone(v.zset)
	return v
}

func (m *model) clone() *model {
	c := &model{m.now, map[string]value{}}
	for k, v := range m.keys {
		c.keys[k] = v.clone()
	}
	return c
}

var errModel = errors.New("wrong type")

// get is the live value of a key, of a type if that is given.
func (m *model) get(key, typ string) (value, error) {
	v, ok := m.keys[key]
	if !ok || v.deadline != 0 && m.now/1000 > v.deadline {
		delete(m.keys, key)
		return value{typ: "none"}, nil
	}
	if typ != "" && v.typ != typ {
		return value{}, errModel
	}
	return v, nil
}

func (m *model) put(key string, v value) {
	if v.typ == "hash" && len(v.hash) == 0 || v.typ == "zset" && len(v.zset) == 0 {
		delete(m.keys, key)
		return
	}
	m.keys[key] = v
}

// act is one operation with its arguments.
type act struct {
	op, key, name string
	n, m          int64
	exp           int // 0 keep, 1 forever, otherwise an offset
}

func (a act) expiry(now int64) Expiry {
	switch a.exp {
	case 0:
		return Keep
	case 1:
		return Forever
	}
	return Until(now + int64(a.exp))
}

var acts = []string{
	"type", "get", "set", "incr", "del", "expire", "deadline", "hget", "hset", "hincr", "hdel", "hlen",
	"hall", "hfill", "zadd", "zscore", "zrem", "zcard", "zcount", "zrange", "zremrange", "zfill",
}

func drawAct(t *rapid.T) act {
	return act{
		op:   rapid.SampledFrom(acts).Draw(t, "op"),
		key:  "{m}" + rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "key"),
		name: rapid.SampledFrom([]string{"", "x", "y", "z", "x\x00", "\xff"}).Draw(t, "name"),
		n:    rapid.Int64Range(-6, 6).Draw(t, "n"),
		m:    rapid.Int64Range(-6, 6).Draw(t, "m"),
		exp:  rapid.SampledFrom([]int{0, 1, -5000, -1, 2, 999, 1000, 3500, 200_000}).Draw(t, "exp"),
	}
}

// onTx is the operation on a Tx, its answer as text.
func (a act) onTx(tx *Tx) string {
	switch a.op {
	case "type":
		return tx.Type(a.key)
	case "get":
		return fmt.Sprint(tx.Get(a.key))
	case "set":
		tx.Set(a.key, a.name, a.expiry(tx.Now()))
	case "incr":
		if tx.Type(a.key) == "string" { // its text is mostly no number
			tx.SetInt(a.key, a.n, Keep)
		}
		return fmt.Sprint(tx.Incr(a.key, a.m))
	case "del":
		return fmt.Sprint(tx.Del(a.key, a.key+"b"))
	case "expire":
		return fmt.Sprint(tx.Expire(a.key, a.expiry(tx.Now())))
	case "deadline":
		return fmt.Sprint(tx.Deadline(a.key))
	}
	if strings.HasPrefix(a.op, "h") {
		return a.hashOnTx(tx)
	}
	return a.zsetOnTx(tx)
}

func (a act) hashOnTx(tx *Tx) string {
	switch a.op {
	case "hget":
		return fmt.Sprint(tx.HGet(a.key, a.name))
	case "hset":
		tx.HSet(a.key, a.name, fmt.Sprint(a.n))
	case "hincr":
		return fmt.Sprint(tx.HIncr(a.key, a.name, a.n))
	case "hdel":
		return fmt.Sprint(tx.HDel(a.key, a.name, "x", a.name))
	case "hlen":
		return fmt.Sprint(tx.HLen(a.key))
	case "hall":
		return fmt.Sprint(tx.HAll(a.key))
	case "hfill":
		for i := range many {
			tx.HSetInt(a.key, fmt.Sprint(i), a.n)
		}
	}
	return ""
}

// many is more than what is deleted one by one, and more than what a batch is walked for.
const many = fewElements + 20

func (a act) zsetOnTx(tx *Tx) string {
	switch a.op {
	case "zadd":
		return fmt.Sprint(tx.ZAdd(a.key, a.n, a.name))
	case "zscore":
		return fmt.Sprint(tx.ZScore(a.key, a.name))
	case "zrem":
		return fmt.Sprint(tx.ZRem(a.key, a.name, "x", a.name))
	case "zcard":
		return fmt.Sprint(tx.ZCard(a.key))
	case "zcount":
		return fmt.Sprint(tx.ZCount(a.key, a.n, a.m))
	case "zrange":
		return fmt.Sprint(tx.ZRange(a.key, a.n, a.m, max(0, a.exp%3)))
	case "zremrange":
		return fmt.Sprint(tx.ZRemRange(a.key, a.n, a.m))
	case "zfill":
		for i := range int64(many) {
			tx.ZAdd(a.key, a.n+i%7, fmt.Sprint(i))
		}
	}
	return ""
}

// onModel is the same on the model.
func (a act) onModel(m *model) (string, error) {
	typ := map[byte]string{'h': "hash", 'z': "zset"}[a.op[0]]
	if a.op == "get" || a.op == "incr" {
		typ = "string"
	}
	v, err := m.get(a.key, typ)
	if err != nil {
		return "", err
	}
	switch typ {
	case "hash":
		return a.hashOnModel(m, v), nil
	case "zset":
		return a.zsetOnModel(m, v), nil
	}
	return a.plainOnModel(m, v), nil
}

func (a act) plainOnModel(m *model, v value) string {
	switch a.op {
	case "type":
		return v.typ
	case "get":
		return fmt.Sprint(v.text, v.typ == "string")
	case "set":
		m.set(a.key, value{typ: "string", text: a.name, deadline: v.deadline}, a.expiry(m.now), false)
	case "incr":
		n := a.m
		if v.typ == "string" {
			n += a.n
		}
		m.put(a.key, value{typ: "string", text: fmt.Sprint(n), deadline: v.deadline})
		return fmt.Sprint(n)
	case "del":
		var n int
		for _, key := range []string{a.key, a.key + "b"} {
			if v, _ := m.get(key, ""); v.typ != "none" {
				delete(m.keys, key)
				n++
			}
		}
		return fmt.Sprint(n)
	case "expire":
		if v.typ != "none" {
			m.set(a.key, v, a.expiry(m.now), true)
		}
		return fmt.Sprint(v.typ != "none")
	case "deadline":
		return fmt.Sprint(v.deadline, v.deadline != 0)
	}
	return ""
}

// set stores a value with a deadline. One that is not in the future ends an existing key at
// once; a new value lives through its millisecond.
func (m *model) set(key string, v value, exp Expiry, existing bool) {
	if !exp.keep {
		v.deadline = exp.ms()
		now := m.now / 1000
		if v.deadline != 0 && (v.deadline < now || existing && v.deadline == now) {
			delete(m.keys, key)
			return
		}
	}
	m.put(key, v)
}

func (a act) hashOnModel(m *model, v value) string {
	if v.typ == "none" {
		v = value{typ: "hash", hash: map[string]string{}}
	}
	defer func() { m.put(a.key, v) }()
	switch a.op {
	case "hget":
		text, ok := v.hash[a.name]
		return fmt.Sprint(text, ok)
	case "hset":
		v.hash[a.name] = fmt.Sprint(a.n)
	case "hincr":
		var n int64
		_, _ = fmt.Sscan(v.hash[a.name], &n) // all fields hold numbers
		v.hash[a.name] = fmt.Sprint(n + a.n)
		return fmt.Sprint(n + a.n)
	case "hdel":
		before := len(v.hash)
		delete(v.hash, a.name)
		delete(v.hash, "x")
		return fmt.Sprint(before - len(v.hash))
	case "hlen":
		return fmt.Sprint(len(v.hash))
	case "hall":
		return fmt.Sprint(v.hash)
	case "hfill":
		for i := range many {
			v.hash[fmt.Sprint(i)] = fmt.Sprint(a.n)
		}
	}
	return ""
}

func (a act) zsetOnModel(m *model, v value) string {
	if v.typ == "none" {
		v = value{typ: "zset", zset: map[string]int64{}}
	}
	defer func() { m.put(a.key, v) }()
	switch a.op {
	case "zadd":
		_, had := v.zset[a.name]
		v.zset[a.name] = a.n
		return fmt.Sprint(!had)
	case "zscore":
		n, ok := v.zset[a.name]
		return fmt.Sprint(n, ok)
	case "zrem":
		before := len(v.zset)
		delete(v.zset, a.name)
		delete(v.zset, "x")
		return fmt.Sprint(before - len(v.zset))
	case "zcard":
		return fmt.Sprint(len(v.zset))
	case "zcount":
		return fmt.Sprint(len(v.between(a.n, a.m)))
	case "zrange":
		all := v.between(a.n, a.m)
		if limit := max(0, a.exp%3); limit > 0 {
			all = all[:min(limit, len(all))]
		}
		return fmt.Sprint(all)
	case "zremrange":
		all := v.between(a.n, a.m)
		for _, x := range all {
			delete(v.zset, x.Name)
		}
		return fmt.Sprint(len(all))
	case "zfill":
		for i := range int64(many) {
			v.zset[fmt.Sprint(i)] = a.n + i%7
		}
	}
	return ""
}

func (v value) between(low, high int64) []Member {
	var all []Member
	for name, score := range v.zset {
		if low <= score && score <= high {
			all = append(all, Member{name, score})
		}
	}
	slices.SortFunc(all, func(a, b Member) int {
		if a.Score != b.Score {
			return int(a.Score - b.Score)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

// TestModel makes random decisions of several operations each, on the engine and on maps, and
// demands equal answers; in between the clock moves, the sweeper runs, buffers become files
// and the store is closed and opened. A decision that meets an error changes nothing.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		files := vfs.NewMem()
		clock := newHandClock(1_000_000_000)
		s, e := openOn(t, files, Options{Clock: clock.time})
		m := &model{clock.us.Load(), map[string]value{}}
		for range rapid.IntRange(1, 40).Draw(rt, "decisions") {
			switch rapid.IntRange(0, 12).Draw(rt, "between") {
			case 0:
				clock.move(time.Duration(rapid.Int64Range(0, 300_000).Draw(rt, "µs")) * time.Microsecond)
			case 1, 2, 3:
				clock.move(time.Duration(rapid.Int64Range(0, 2_000).Draw(rt, "µs")) * time.Microsecond)
			case 4:
				e.sweep()
			case 5:
				if err := e.db.Flush(); err != nil {
					t.Fatal(err)
				}
			case 6:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s, e = openOn(t, files, Options{Clock: clock.time})
			}
			m.now = clock.us.Load()
			m = compareDecision(rt, s, m, rapid.SliceOfN(rapid.Custom(drawAct), 1, 6).Draw(rt, "acts"))
		}
		clock.move(time.Hour)
		eventually(t, "the sweeper has removed all that had a deadline", func() bool {
			e.sweep()
			found, err := e.due(0, clock.us.Load()/1000)
			return err == nil && len(found) == 0
		})
		verifyFormat(t, e)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// compareDecision makes one decision on both and returns the model as it is afterwards.
func compareDecision(t *rapid.T, s *Store, m *model, list []act) *model {
	after := m.clone()
	var want []string
	var wantErr error
	for _, a := range list {
		var text string
		if text, wantErr = a.onModel(after); wantErr != nil {
			break
		}
		want = append(want, text)
	}
	var got []string
	err := decideOn(s, "{m}", func(tx *Tx) {
		got = nil
		for _, a := range list {
			got = append(got, a.onTx(tx))
		}
	})
	if wantErr != nil {
		if !errors.Is(err, ErrWrongType) {
			t.Fatalf("%+v: error %v, want ErrWrongType", list, err)
		}
		return m
	}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%+v:\n got %q, %v\nwant %q", list, got, err, want)
	}
	return after
}

// Many callers, one number: every one of them counts, and none sees it go back.
func TestCallersDoNotLoseEachOther(t *testing.T) {
	for _, url := range []string{"mem:", "file:" + t.TempDir() + "/store"} {
		t.Run(url[:4], func(t *testing.T) {
			s := openURL(t, url, Options{})
			const callers, each = 16, 300
			done := make(chan error, callers)
			for range callers {
				go func() {
					var last int64
					for i := range each {
						d := incr
						if i%3 == 2 {
							d = look
						}
						out, err := d.Do(context.Background(), s, keyIn{"k"})
						if err == nil && (out.N < last || d == incr && out.N == last) {
							err = fmt.Errorf("%d after %d", out.N, last)
						}
						if err != nil {
							done <- err
							return
						}
						last = out.N
					}
					done <- nil
				}()
			}
			for range callers {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			out, err := look.Do(context.Background(), s, keyIn{"k"})
			if err != nil || out.N != callers*each*2/3 {
				t.Errorf("%d, %v; want %d", out.N, err, callers*each*2/3)
			}
		})
	}
}
