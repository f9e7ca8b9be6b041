package store_test

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// opsPlan takes every operation of store.Tx at random, on keys that hold now one type and now
// another and that expire all the time. It is the proof that Tx means what the engines'
// commands mean, on the borders of milliseconds too.
func opsPlan() storetest.Plan {
	keys := []string{"{a}1", "{a}1:2", "{a}2", "{a}2:2", "{b}", "{b}:2"}
	return storetest.Plan{
		Keys: keys,
		Next: func(r *rand.Rand, _ int64) storetest.Step {
			i := r.IntN(3)
			key, mine := keys[2*i], opsByType[i]
			name := mine[r.IntN(len(mine))]
			if r.IntN(5) == 0 {
				name = opNames[r.IntN(len(opNames))]
			}
			in := opIn{Key: key, Other: key + ":2", Op: name, Channel: "c"}
			if r.IntN(4) == 0 {
				in.Key, in.Other = in.Other, in.Key
			}
			for _, kind := range opArgs[name] {
				in.Args = append(in.Args, someArg(r, kind))
			}
			return storetest.Do(op, in)
		},
	}
}

// opArgs says what arguments an operation takes: f a name, v a value that is an integer, e an
// expiry, n a small integer, w a score or an end of a range, l a limit.
var opArgs = map[string]string{
	"type": "", "get": "", "set": "ve", "int": "", "incr": "n", "del": "", "expire": "e", "deadline": "",
	"hget": "f", "hint": "f", "hset": "fv", "hincr": "fn", "hdel": "ff", "hlen": "", "hall": "",
	"zadd": "wf", "zscore": "f", "zrem": "ff", "zcard": "", "zcount": "ww", "zrange": "wwl", "zremrange": "ww",
}

// opsByType is what a key of each type mostly gets, what builds more often than what tears
// down: keys that always hold another type would only ever answer with an error.
var opsByType = [][]string{
	{"type", "get", "set", "set", "int", "incr", "incr", "del", "expire", "expire", "deadline"},
	{"hget", "hint", "hset", "hset", "hset", "hincr", "hincr", "hdel", "hlen", "hall", "expire"},
	{"zadd", "zadd", "zadd", "zadd", "zadd", "zadd", "zscore", "zrem", "zcard", "zcount", "zcount", "zrange", "zrange", "zremrange", "expire"},
}

var opNames = slices.Concat(opsByType...)

func someArg(r *rand.Rand, kind rune) string {
	switch kind {
	case 'f':
		return []string{"", "a", "b", "ab", "B", "é", "\x00", "a\x00"}[r.IntN(8)]
	case 'v', 'n':
		return strconv.FormatInt(r.Int64N(201)-100, 10)
	case 'e':
		switch r.IntN(6) {
		case 0:
			return "keep"
		case 1:
			return "forever"
		case 2:
			return strconv.FormatInt(r.Int64N(3000)-1500, 10) // passed, or about to
		}
		return strconv.FormatInt(r.Int64N([]int64{20_000, 500_000, 20_000_000}[r.IntN(3)]), 10)
	case 'l':
		return strconv.Itoa(1 + r.IntN(5))
	}
	switch r.IntN(8) { // w
	case 0:
		return strconv.FormatInt(store.MaxInt-r.Int64N(2), 10)
	case 1:
		return strconv.FormatInt(store.MinInt+r.Int64N(2), 10)
	}
	return strconv.FormatInt(r.Int64N(9)-4, 10)
}

func TestBodiesAgree(t *testing.T) {
	for _, name := range opNames {
		if _, ok := opArgs[name]; !ok || ops[name] == nil {
			t.Fatalf("%s is not described", name)
		}
	}
	storetest.Diff(t, opsPlan())
}

func TestBodiesAgreeNoticesErrors(t *testing.T) {
	m := func(from, to string) storetest.Mutation {
		return storetest.Mutation{Decision: "test.op", Old: from, New: to}
	}
	storetest.DiffFinds(t, opsPlan(),
		m("call('SET', k, v, 'KEEPTTL')", "call('SET', k, v)"),
		m("call('PERSIST', k)", "call('EXISTS', k)"),
		m("math.ceil(us / 1000)", "math.floor(us / 1000)"),
		m("call('ZADD', key, a, b)", "call('ZADD', key, 'GT', a, b)"),
		m("call('ZCOUNT', key, a, b)", "call('ZCOUNT', key, '(' .. a, b)"),
		m("call('ZREMRANGEBYSCORE', key, a, b)", "call('ZREMRANGEBYSCORE', key, a, '(' .. b)"),
		m("'LIMIT', 0, c", "'LIMIT', 0, c + 1"),
		m("call('HDEL', key, a, b)", "call('HDEL', key, a)"),
		m("call('DEL', key, other)", "call('DEL', other)"),
		m("math.floor(now() / 1000) + ms", "math.ceil(now() / 1000) + ms"),
	)
}
