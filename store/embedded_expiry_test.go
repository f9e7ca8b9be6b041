package store

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A key that is prolonged keeps its place in the order of deadlines, so that it is written alone;
// the sweeper moves the place to the deadline of then, and at last removes the key. One whose
// deadline comes nearer gets a nearer place at once.
func TestProlongedKeyKeepsItsPlace(t *testing.T) {
	clock := newHandClock(1_000_000_000)
	s, e := openOn(t, vfs.NewMem(), Options{Clock: clock.time})
	set := func(end int64) {
		t.Helper()
		if err := decideOn(s, "k", func(tx *Tx) { tx.Set("k", "v", Until(end*1000)) }); err != nil {
			t.Fatal(err)
		}
	}
	places := func() (all []int64) {
		t.Helper()
		found, err := e.due(0, 1<<50)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range found {
			all = append(all, x.ms)
		}
		verifyFormat(t, e)
		return all
	}
	want := func(when string, ms ...int64) {
		t.Helper()
		if got := places(); len(got) != len(ms) || len(ms) > 0 && got[0] != ms[0] {
			t.Errorf("%s the places are %v, want %v", when, got, ms)
		}
	}
	set(1_000_500)
	set(1_009_000)
	want("after it was prolonged", 1_000_500)
	clock.move(600 * time.Millisecond)
	e.sweep()
	want("after the sweeper came by", 1_009_000)
	set(1_005_000)
	want("after it was shortened", 1_005_000)
	set(1_007_000)
	clock.move(5 * time.Second)
	eventually(t, "the place has moved", func() bool { e.sweep(); return places()[0] == 1_007_000 })
	clock.move(5 * time.Second)
	eventually(t, "the key is gone", func() bool { e.sweep(); return len(places()) == 0 && rows(t, e) == 0 })
}

// A store of version 1, in which every place is a deadline, is opened and becomes one of this
// version.
func TestOpenVersion1(t *testing.T) {
	files := vfs.NewMem()
	clock := newHandClock(1_000_000_000)
	s, e := openOn(t, files, Options{Clock: clock.time})
	if err := decideOn(s, "k", func(tx *Tx) { tx.Set("k", "7", Until(2_000_000_000)) }); err != nil {
		t.Fatal(err)
	}
	if err := e.db.Set(formatKey, []byte("1"), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, e = openOn(t, files, Options{Clock: clock.time})
	if out, err := look.Do(t.Context(), s, keyIn{"k"}); err != nil || out.N != 7 {
		t.Errorf("%+v, %v", out, err)
	}
	if version, _, err := get(e.db, formatKey); err != nil || version != formatVersion {
		t.Errorf("the format is %q, %v", version, err)
	}
	verifyFormat(t, e)
}

// A body that kept its Tx does not meet the decision that uses its memory after it.
func TestTxIsOverAfterItsDecision(t *testing.T) {
	s, _ := openOn(t, vfs.NewMem(), Options{})
	var kept *Tx
	if err := decideOn(s, "k", func(tx *Tx) { tx.Set("k", "1", Forever); kept = tx }); err != nil {
		t.Fatal(err)
	}
	err := decideOn(s, "k", func(tx *Tx) {
		kept.Set("k", "2", Forever)
		kept.HSet("{k}h", "f", "2")
		kept.Notify("c", "2")
		if v, ok := kept.Get("k"); ok {
			t.Errorf("it reads %q", v)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := look.Do(t.Context(), s, keyIn{"k"}); err != nil || out.N != 1 {
		t.Errorf("%+v, %v", out, err)
	}
}
