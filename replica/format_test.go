package replica_test

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "make testdata/format1 anew; only while nobody has data of format 1")

const fixture = "testdata/format1"

// A directory of format 1, with a snapshot and a log behind it, is opened by today's code. It is
// made by go test ./replica -run TestFormat1 -update.
func TestFormat1(t *testing.T) {
	t.Parallel()
	need(t)
	w := &world{t: t, nodes: []*member{{name: "fixture", dir: t.TempDir()}}}
	if *update {
		w.makeFixture()
	}
	if err := os.CopyFS(w.nodes[0].dir, os.DirFS(fixture)); err != nil {
		t.Fatal(err)
	}
	w.open(0)
	t.Cleanup(func() { w.kill(0) })
	for words, want := range map[string]string{
		"GET string": "after", "GET counter": "3", "HGET hash f": "1", "LINDEX list 1": "b", "SCARD set": ":2",
		"ZSCORE zset z": "1.5", "XLEN stream": ":2", "GET volatile": "v", "EXISTS gone": ":0", "DBSIZE": ":8",
		"EVAL return(redis.call('PTTL','volatile')>0) 0": ":1",
	} {
		if got := w.do(strings.Fields(words)...); got != want {
			t.Errorf("%s: %q, not %q", words, got, want)
		}
	}
	if s := w.status(); s.Log.Snapshot <= 1 || s.Log.Last <= s.Log.Snapshot {
		t.Errorf("the fixture is not a snapshot with a log behind it: %+v", s.Log)
	}
	if got := w.do("INCR", "counter"); got != ":4" {
		t.Errorf("it goes on with %s", got)
	}
}

func (w *world) makeFixture() {
	w.t.Helper()
	made := &world{t: w.t, nodes: []*member{{name: "fixture", dir: w.t.TempDir()}}}
	made.open(0)
	for _, words := range []string{"SET string before", "SET gone v", "HSET hash f 1", "RPUSH list a b", "SADD set m n", "ZADD zset 1.5 z",
		"XADD stream 1-1 f v", "XADD stream 1-2 f v", "SET volatile v PXAT 9999999999999"} {
		made.do(strings.Fields(words)...)
	}
	if err := made.nodes[0].MakeSnapshot(); err != nil {
		w.t.Fatal(err)
	}
	for _, words := range []string{"SET string after", "DEL gone", "INCR counter", "INCRBY counter 2"} {
		made.do(strings.Fields(words)...)
	}
	made.kill(0)
	if err := os.RemoveAll(fixture); err != nil {
		w.t.Fatal(err)
	}
	if err := os.MkdirAll(fixture, 0o755); err != nil {
		w.t.Fatal(err)
	}
	from := made.nodes[0].dir
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(from, path) // it lies below
		if err != nil || d.IsDir() || strings.HasPrefix(name, "engine") || d.Name() == "LOCK" || d.Name() == "reserve" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(fixture, name)), 0o755); err != nil {
			return err
		}
		if len(b) > 64<<10 {
			return fmt.Errorf("%s has %d bytes", name, len(b))
		}
		return os.WriteFile(filepath.Join(fixture, name), b, 0o644)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}
