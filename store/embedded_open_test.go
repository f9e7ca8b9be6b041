package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestFileURL(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"file:data": filepath.Join(here, "data"), "file:./data/": filepath.Join(here, "data"),
		"file:/no/such": "/no/such", "file:///no/such": "/no/such", "file:/a%20b": "/a%20b",
	} {
		if got, err := fileDir(url); err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", url, got, err, want)
		}
	}
	for _, url := range []string{"file:", "file://", "file://host/dir", "file:/dir?class=b", "file:/dir#x", "file:/a\x00b"} {
		if got, err := fileDir(url); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %q %v", url, got, err)
		}
	}
	for _, url := range []string{"", "mem", "mem:x", "http://h", "data", "FILE:/x"} {
		if _, err := Open(t.Context(), url, Options{}); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// A directory has one store at a time, by whatever name it is opened; it is free after Close.
func TestOpenTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	link := filepath.Join(t.TempDir(), "link")
	first, err := Open(t.Context(), "file:"+dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, link} {
		if _, err := Open(t.Context(), "file:"+name, Options{}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	openURL(t, "file:"+link, Options{})
}

// What is not a store of this version is refused, and stays as it is.
func TestOpenRefusesWhatIsNotAStore(t *testing.T) {
	for _, c := range []struct {
		name string
		want error
		make func(t *testing.T, dir string)
	}{
		{"a directory with files", ErrConfig, func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "000001.log"), "somebody's diary")
		}},
		{"a file", ErrConfig, func(t *testing.T, dir string) {
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
			write(t, dir, "a file")
		}},
		{"somebody's Pebble", ErrConfig, func(t *testing.T, dir string) {
			setRaw(t, dir, pebbleFormat, "theirs", "x")
		}},
		{"a newer format", ErrNewer, func(t *testing.T, dir string) {
			setRaw(t, dir, pebbleFormat, string(formatKey), "3")
		}},
		{"newer files", ErrNewer, func(t *testing.T, dir string) {
			setRaw(t, dir, pebbleFormat+1, string(formatKey), formatVersion)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "newer files" && pebble.FormatNewest <= pebbleFormat {
				t.Skip("Pebble has no newer format")
			}
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			c.make(t, dir)
			before := listing(t, dir)
			for range 2 {
				s, err := Open(t.Context(), "file:"+dir, Options{})
				if !errors.Is(err, c.want) || !strings.Contains(err.Error(), dir) {
					t.Errorf("%v, want %v with the directory's name", err, c.want)
				}
				if err == nil {
					_ = s.Close()
				}
			}
			if strings.HasPrefix(c.name, "a ") && c.want == ErrConfig && listing(t, dir) != before {
				t.Errorf("it was %q, now %q", before, listing(t, dir))
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func setRaw(t *testing.T, dir string, format pebble.FormatMajorVersion, key, value string) {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: format, Logger: pebbleLogger{quiet, newFailure()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Set([]byte(key), []byte(value), pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func listing(t *testing.T, dir string) (all string) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			data, readErr := os.ReadFile(path)
			all, err = all+path+": "+string(data)+"\n", readErr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The clock never goes back: not with the wall clock, not over a clean end, not over a crash.
// After a crash it stands still for no longer than it had reserved.
func TestClock(t *testing.T) {
	wall := newHandClock(1_700_000_000_000_000)
	files := vfs.NewCrashableMem()
	opts := Options{Clock: wall.time}
	var last int64
	tell := func(s *Store) (now int64) {
		t.Helper()
		if err := decideOn(s, "{c}", func(tx *Tx) { now = tx.Now(); tx.SetInt("{c}", now/1000, Forever) }); err != nil {
			t.Fatal(err)
		}
		if now < last {
			t.Errorf("it went back by %d µs", last-now)
		}
		last = now
		return now
	}
	s, e := openOn(t, files, opts)
	began := tell(s)
	if began != wall.us.Load() {
		t.Errorf("it begins at %d", began)
	}
	wall.move(-time.Hour)
	tell(s)
	wall.move(time.Hour + 3*time.Second)
	if tell(s) != wall.us.Load() {
		t.Error("it does not follow the wall clock")
	}
	crashed := files.CrashClone(vfs.CrashCloneCfg{})
	if err := e.close(); err != nil {
		t.Fatal(err)
	}

	wall.move(-time.Minute)
	s, e = openOn(t, files, opts) // after a clean end
	tell(s)
	if last > wall.us.Load()+time.Minute.Microseconds() {
		t.Errorf("after a clean end it is %d µs ahead", last-wall.us.Load())
	}
	if err := e.close(); err != nil {
		t.Fatal(err)
	}

	wall.move(time.Minute)
	s, _ = openOn(t, crashed, opts)
	if tell(s); last > wall.us.Load()+2*clockReserve.Microseconds() {
		t.Errorf("after a crash it is %d µs ahead", last-wall.us.Load())
	}
	wall.move(2 * clockReserve)
	if tell(s) != wall.us.Load() {
		t.Error("it still stands still")
	}
}

// A bound that is reached refuses what grows with ErrFull and writes nothing of it; what only
// deletes passes, and makes room.
func TestFull(t *testing.T) {
	for _, url := range []string{"mem:", "file:" + filepath.Join(t.TempDir(), "data")} {
		t.Run(url[:4], func(t *testing.T) {
			s := openURL(t, url, Options{MaxBytes: 16 << 20, Logger: quiet})
			noise := make([]byte, 100_000) // or compression would make room as fast as it is filled
			_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
			pad, n := string(noise), 0
			for ; n < 1000; n++ {
				_, err := step.Do(t.Context(), s, worker(n, pad))
				if errors.Is(err, ErrFull) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if n < 10 || n >= 1000 {
				t.Fatalf("full after %d steps of 100 kB", n)
			}
			if got := steps(t, s, n); got != 0 {
				t.Errorf("what was refused is there: %d", got)
			}
			for i := range n {
				if got := steps(t, s, i); got != 1 {
					t.Errorf("worker %d: %d steps", i, got)
				}
				in := worker(i, "")
				if err := decideOnAll(s, in, func(tx *Tx) { tx.Del(in.Count); tx.Del(in.Fields); tx.Del(in.Members) }); err != nil {
					t.Fatal("a decision that deletes:", err)
				}
			}
			eventually(t, "there is room again", func() bool {
				_, err := step.Do(t.Context(), s, worker(n, pad))
				if err != nil && !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
				return err == nil
			})
		})
	}
}

// decideOnAll runs a body on the keys of a step.
func decideOnAll(s *Store, in stepIn, body func(tx *Tx)) error {
	d := Decide("test.body", Lua(""), func(tx *Tx, _ stepIn) struct{} { body(tx); return struct{}{} })
	_, err := d.Do(context.Background(), s, in)
	return err
}

// Below its margin of free space the store refuses, and names the place.
func TestLittleSpace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := openURL(t, "file:"+dir, Options{MinFree: 1 << 60, Logger: quiet})
	if _, err := step.Do(t.Context(), s, worker(0, "")); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), dir) {
		t.Error(err)
	}
	if got := steps(t, s, 0); got != 0 {
		t.Errorf("what was refused is there: %d", got)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error("it still answers reads:", err)
	}
}

// What has passed its deadline gives its room back, also when it passed while nobody looked.
func TestSweep(t *testing.T) {
	wall := newHandClock(1_700_000_000_000_000)
	files := vfs.NewCrashableMem()
	opts := Options{Clock: wall.time}
	s, e := openOn(t, files, opts)
	for _, k := range []string{"{a}", "{b}", "{c}"} {
		err := decideOn(s, k, func(tx *Tx) {
			tx.HSet(k, "field", "value")
			tx.Expire(k, Until(tx.Now()+time.Minute.Microseconds()))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := decideOn(s, "{kept}", func(tx *Tx) { tx.SetInt("{kept}", 1, Forever) }); err != nil {
		t.Fatal(err)
	}
	if err := e.close(); err != nil {
		t.Fatal(err)
	}
	s, e = openOn(t, files, opts)
	if n := rows(t, e); n != 3*3+1 {
		t.Errorf("%d rows before", n)
	}
	wall.move(time.Minute + 5*time.Second)
	eventually(t, "only what is kept has rows", func() bool {
		err := s.Ping(t.Context())
		return err == nil && rows(t, e) == 1
	})
	verifyFormat(t, e)
}

// rows counts what is stored, without the store's own.
func rows(t *testing.T, e *embedded) (n int) {
	t.Helper()
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceRecord}})
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		n++
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	return n
}

// What is read from the disk is decoded without trust, and written as it was read.
func FuzzDecode(f *testing.F) {
	f.Add(string(record{typ: typeString, deadline: 5, place: 5, value: "v"}.append(nil)))
	f.Add(string(record{typ: typeHash, count: 3}.append(nil)))
	f.Add(string(record{typ: typeZset, deadline: 5, place: 4, count: 3}.append(nil)))
	f.Add("h\xff")
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := decodeRecord(s); err == nil {
			if got := string(r.append(nil)); got != s {
				t.Errorf("record %q became %q", s, got)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
		if n, err := parseScore(s); err == nil {
			if got := string(appendScore(nil, n)); got != s {
				t.Errorf("score %q became %q", s, got)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
		if _, err := decodeClock([]byte(s)); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
	})
}

// What a store keeps is for its user alone.
func TestDirectoryIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "store")
	s, err := Open(t.Context(), "file:"+dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
