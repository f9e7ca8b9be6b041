package store_test

import (
	"context"
	_ "embed"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

// op is one operation of store.Tx as a decision of its own, so that a table of words can
// say the same to every engine.

//go:embed testdata/ops.lua
var opsLua string

type opIn struct {
	Key     string `store:"key"`
	Other   string `store:"key"`
	Op      string
	Channel string `store:"channel"`
	Args    []string
}

type opOut struct{ Reply []string }

const none = "(none)"

var op = store.Decide("test.op", store.Lua(opsLua), func(tx *store.Tx, in opIn) opOut {
	return opOut{ops[in.Op](tx, in)}
})

// n reads a number that the test itself wrote.
func (in opIn) n(i int) int64 {
	n, err := strconv.ParseInt(in.Args[i], 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// expiry reads "keep", "forever" or microseconds from now.
func (in opIn) expiry(tx *store.Tx, i int) store.Expiry {
	switch in.Args[i] {
	case "keep":
		return store.Keep
	case "forever":
		return store.Forever
	}
	return store.Until(tx.Now() + in.n(i))
}

var ops = map[string]func(*store.Tx, opIn) []string{
	"type": func(tx *store.Tx, in opIn) []string { return []string{tx.Type(in.Key)} },
	"get":  func(tx *store.Tx, in opIn) []string { return value(tx.Get(in.Key)) },
	"set": func(tx *store.Tx, in opIn) []string {
		tx.Set(in.Key, in.Args[0], in.expiry(tx, 1))
		return nil
	},
	"int":  func(tx *store.Tx, in opIn) []string { return whole(tx.Int(in.Key)) },
	"incr": func(tx *store.Tx, in opIn) []string { return whole(tx.Incr(in.Key, in.n(0))) },
	"del":  func(tx *store.Tx, in opIn) []string { return whole(tx.Del(in.Key, in.Other)) },
	"expire": func(tx *store.Tx, in opIn) []string {
		return flag(tx.Expire(in.Key, in.expiry(tx, 0)))
	},
	"deadline": func(tx *store.Tx, in opIn) []string { return number(tx.Deadline(in.Key)) },
	"hget":     func(tx *store.Tx, in opIn) []string { return value(tx.HGet(in.Key, in.Args[0])) },
	"hint":     func(tx *store.Tx, in opIn) []string { return whole(tx.HInt(in.Key, in.Args[0])) },
	"hset": func(tx *store.Tx, in opIn) []string {
		tx.HSet(in.Key, in.Args[0], in.Args[1])
		return nil
	},
	"hincr": func(tx *store.Tx, in opIn) []string { return whole(tx.HIncr(in.Key, in.Args[0], in.n(1))) },
	"hdel":  func(tx *store.Tx, in opIn) []string { return whole(tx.HDel(in.Key, in.Args[0], in.Args[1])) },
	"hlen":  func(tx *store.Tx, in opIn) []string { return whole(tx.HLen(in.Key)) },
	"hall": func(tx *store.Tx, in opIn) []string {
		var all []string
		for field, v := range tx.HAll(in.Key) {
			all = append(all, field+"="+v)
		}
		slices.Sort(all)
		return all
	},
	"zadd":   func(tx *store.Tx, in opIn) []string { return flag(tx.ZAdd(in.Key, in.n(0), in.Args[1])) },
	"zscore": func(tx *store.Tx, in opIn) []string { return number(tx.ZScore(in.Key, in.Args[0])) },
	"zrem":   func(tx *store.Tx, in opIn) []string { return whole(tx.ZRem(in.Key, in.Args[0], in.Args[1])) },
	"zcard":  func(tx *store.Tx, in opIn) []string { return whole(tx.ZCard(in.Key)) },
	"zcount": func(tx *store.Tx, in opIn) []string { return whole(tx.ZCount(in.Key, in.n(0), in.n(1))) },
	"zrange": func(tx *store.Tx, in opIn) []string {
		var out []string
		for _, m := range tx.ZRange(in.Key, in.n(0), in.n(1), int(in.n(2))) {
			out = append(out, m.Name+"="+strconv.FormatInt(m.Score, 10))
		}
		return out
	},
	"zremrange": func(tx *store.Tx, in opIn) []string { return whole(tx.ZRemRange(in.Key, in.n(0), in.n(1))) },
	"notify": func(tx *store.Tx, in opIn) []string {
		tx.Notify(in.Channel, in.Args[0])
		return nil
	},
}

func value(s string, ok bool) []string {
	if !ok {
		return []string{none}
	}
	return []string{s}
}

func number(n int64, ok bool) []string {
	if !ok {
		return []string{none}
	}
	return whole(n)
}

func whole(n int64) []string { return []string{strconv.FormatInt(n, 10)} }

func flag(b bool) []string {
	if b {
		return []string{"1"}
	}
	return []string{"0"}
}

// do runs one operation on key and on the key beside it.
func do(t *testing.T, s *store.Store, key, name string, args ...string) ([]string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := op.Do(ctx, s, opIn{Key: key, Other: key + ":2", Op: name, Channel: "news", Args: args})
	return out.Reply, err
}

// must is do for what has to work.
func must(t *testing.T, s *store.Store, key, name string, args ...string) []string {
	t.Helper()
	out, err := do(t, s, key, name, args...)
	if err != nil {
		t.Fatalf("%s %s %v: %v", name, key, args, err)
	}
	return out
}
