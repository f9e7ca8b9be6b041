package storetest

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-dev/holdfast/store"
)

//go:embed dump.lua
var dumpLua string

type dumpIn struct {
	Slot string `store:"key"`
	Keys []string
}

type dumpOut struct{ Flat []string }

// dump is itself a decision, so what it reads is what decisions see.
var dump = store.Decide("storetest.dump", store.Lua(dumpLua), func(tx *store.Tx, in dumpIn) dumpOut {
	var out dumpOut
	for _, key := range in.Keys {
		kind, deadline := tx.Type(key), "forever"
		if ms, ok := tx.Deadline(key); ok {
			deadline = strconv.FormatInt(ms, 10)
		}
		items := dumpItems(tx, key, kind)
		out.Flat = append(out.Flat, key, kind, deadline, strconv.Itoa(len(items)))
		out.Flat = append(out.Flat, items...)
	}
	return out
})

func dumpItems(tx *store.Tx, key, kind string) []string {
	var items []string
	switch kind {
	case "string":
		value, _ := tx.Get(key)
		items = []string{value}
	case "hash":
		for field, value := range tx.HAll(key) {
			items = append(items, field, value)
		}
	case "zset":
		for _, m := range tx.ZRange(key, store.MinInt, store.MaxInt, 0) {
			items = append(items, m.Name, strconv.FormatInt(m.Score, 10))
		}
	}
	return items
}

// state is one line of text for each key that exists.
type state map[string]string

// readState dumps keys, one call for each slot.
func readState(ctx context.Context, s *store.Store, slots ...[]string) (state, error) {
	all := state{}
	for _, keys := range slots {
		out, err := dump.Do(ctx, s, dumpIn{Slot: keys[0], Keys: keys})
		if err != nil {
			return nil, err
		}
		if err := all.read(out.Flat); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (all state) read(flat []string) error {
	for len(flat) > 0 {
		if len(flat) < 4 {
			return fmt.Errorf("dump ends within a key: %q", flat)
		}
		key, kind, deadline := flat[0], flat[1], flat[2]
		n, err := strconv.Atoi(flat[3])
		if flat = flat[4:]; err != nil || n > len(flat) {
			return fmt.Errorf("dump of %q promises %d items (%v) and has %d", key, n, err, len(flat))
		}
		if kind != "none" {
			all[key] = fmt.Sprintf("%s until %s: %s", kind, deadline, describe(kind, flat[:n]))
		}
		flat = flat[n:]
	}
	return nil
}

// describe puts a hash's fields in order, which the engines do not.
func describe(kind string, items []string) string {
	if kind == "string" {
		return strconv.Quote(items[0])
	}
	var words []string
	for i := 0; i+1 < len(items); i += 2 {
		words = append(words, fmt.Sprintf("%q=%q", items[i], items[i+1]))
	}
	if kind == "hash" {
		slices.Sort(words)
	}
	return strings.Join(words, " ")
}

// differences lists the keys that are not equal, one above the other.
func differences(embedded, remote state) string {
	var b strings.Builder
	keys := slices.Concat(slices.Collect(maps.Keys(embedded)), slices.Collect(maps.Keys(remote)))
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if embedded[key] != remote[key] {
			fmt.Fprintf(&b, "  %s\n    embedded: %s\n    remote:   %s\n", key, orNone(embedded[key]), orNone(remote[key]))
		}
	}
	return b.String()
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// bySlot groups keys so that each group fits one call.
func bySlot(keys []string) map[uint16][]string {
	groups := map[uint16][]string{}
	for _, key := range keys {
		slot := store.Slot(key)
		groups[slot] = append(groups[slot], key)
	}
	return groups
}
