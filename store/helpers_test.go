package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// stepIn asks for one step of a worker: a number in a string, as many fields in a hash, as
// many members in a sorted set. A store in which they are not equal has torn a decision.
type stepIn struct {
	Count   string `store:"key"`
	Fields  string `store:"key"`
	Members string `store:"key"`
	Pad     string
}

type stepOut struct{ N, Now int64 }

var step = Decide("test.step", Lua(""), func(tx *Tx, in stepIn) stepOut {
	n := tx.Incr(in.Count, 1)
	name := strconv.FormatInt(n, 10)
	tx.HSet(in.Fields, name, in.Pad)
	tx.ZAdd(in.Members, -n, name)
	return stepOut{n, tx.Now()}
})

// seen reads what step has written, in one decision.
var seen = Decide("test.seen", Lua(""), func(tx *Tx, in stepIn) seenOut {
	return seenOut{tx.Int(in.Count), tx.HLen(in.Fields), tx.ZCount(in.Members, MinInt, -1)}
})

type seenOut struct{ N, Fields, Members int64 }

func worker(i int, pad string) stepIn {
	return stepIn{
		Count:   fmt.Sprintf("{w%d}:count", i),
		Fields:  fmt.Sprintf("{w%d}:fields", i),
		Members: fmt.Sprintf("{w%d}:members", i),
		Pad:     pad,
	}
}

// steps is how far a worker has come, by the store.
func steps(t testing.TB, s *Store, i int) int64 {
	t.Helper()
	out, err := seen.Do(context.Background(), s, worker(i, ""))
	if err != nil {
		t.Fatal(err)
	}
	if out.Fields != out.N || out.Members != out.N {
		t.Fatalf("worker %d: a decision was torn: %+v", i, out)
	}
	return out.N
}

type keyIn struct {
	Key string `store:"key"`
}
type intOut struct{ N int64 }

var (
	incr = Decide("test.incr", Lua(""), func(tx *Tx, in keyIn) intOut { return intOut{tx.Incr(in.Key, 1)} })
	look = Decide("test.look", Lua(""), func(tx *Tx, in keyIn) intOut { return intOut{tx.Int(in.Key)} })
)

// decideOn runs a body as a decision of its own.
func decideOn(s *Store, key string, body func(tx *Tx)) error {
	d := Decide("test.body", Lua(""), func(tx *Tx, _ keyIn) struct{} { body(tx); return struct{}{} })
	_, err := d.Do(context.Background(), s, keyIn{key})
	return err
}

// openOn opens a durable engine on a file system of the test's choice and closes it in the end.
func openOn(t testing.TB, files vfs.FS, opts Options) (*Store, *embedded) {
	t.Helper()
	opts, err := opts.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if opts.MaxBytes == 0 {
		opts.MaxBytes = fileBytes
	}
	if opts.MinFree == 256<<20 {
		opts.MinFree = math.MinInt64 / 2 // file systems in memory have none
	}
	e, err := openEmbedded("/dir/store", files, true, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.close() })
	return &Store{engine: e}, e
}

func openURL(t testing.TB, url string, opts Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// quiet is a log for tests whose faults are on purpose.
var quiet = slog.New(slog.DiscardHandler)

// newRand prints its seed; STORE_SEED repeats it.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("STORE_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("STORE_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// eventually polls until ok, which must come true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("it never came true: %s", what)
}

// handClock is a wall clock that a test moves.
type handClock struct{ us atomic.Int64 }

func newHandClock(us int64) *handClock {
	c := &handClock{}
	c.us.Store(us)
	return c
}

func (c *handClock) time() time.Time      { return time.UnixMicro(c.us.Load()) }
func (c *handClock) move(d time.Duration) { c.us.Add(d.Microseconds()) }

// verifyFormat reads the database itself and checks all that must hold between its entries,
// whatever decisions have run.
func verifyFormat(t testing.TB, e *embedded) {
	t.Helper()
	it, err := e.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	records := map[string]record{}
	fields, scores, order := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for ok := it.First(); ok; ok = it.Next() {
		k, v := it.Key(), it.Value()
		switch k[0] {
		case spaceRecord:
			r, err := decodeRecord(string(v))
			if err != nil {
				t.Fatalf("%q: %v", k, err)
			}
			records[string(k[1:])] = r
		case spaceField:
			key, _ := splitElement(t, k)
			fields[key]++
		case spaceScore:
			key, member := splitElement(t, k)
			score, err := parseScore(string(v))
			if err != nil {
				t.Fatalf("%q: %v", k, err)
			}
			if _, _, err := get(e.db, orderKey(key, score, member)); err != nil {
				t.Fatalf("member %q of %q has no place in the order: %v", member, key, err)
			}
			scores[key]++
		case spaceOrder:
			key, _ := splitElement(t, k)
			order[key]++
		case spaceDeadline:
			ms, key := int64(binary.BigEndian.Uint64(k[1:9])), string(k[9:])
			if r := records[key]; r.deadline == 0 || r.place != ms {
				t.Fatalf("the index says that %q has a place at %d, its record says %+v", key, ms, r)
			}
		}
	}
	verifyCounts(t, e, records, fields, scores, order)
}

func verifyCounts(t testing.TB, e *embedded, records map[string]record, fields, scores, order map[string]int64) {
	t.Helper()
	for key, r := range records {
		var inHash, inZset int64
		switch r.typ {
		case typeHash:
			inHash = r.count
		case typeZset:
			inZset = r.count
		}
		if fields[key] != inHash || scores[key] != inZset || order[key] != inZset {
			t.Fatalf("%q: record %+v, but %d fields, %d scores, %d in order", key, r, fields[key], scores[key], order[key])
		}
		if r.deadline != 0 {
			if _, _, err := get(e.db, deadlineKey(r.place, key)); err != nil || r.place > r.deadline {
				t.Fatalf("%q ends at %d and has a place at %d, which the index does not know: %v", key, r.deadline, r.place, err)
			}
		}
		delete(fields, key)
		delete(scores, key)
		delete(order, key)
	}
	if len(fields)+len(scores)+len(order) > 0 {
		t.Fatalf("elements without a record: %v %v %v", fields, scores, order)
	}
}

func get(db *pebble.DB, key []byte) (string, bool, error) {
	s, ok, err := copied(db.Get(key))
	if err == nil && !ok {
		err = errors.New("not there")
	}
	return s, ok, err
}

func splitElement(t testing.TB, k []byte) (key, element string) {
	t.Helper()
	n := int(binary.BigEndian.Uint32(k[1:5]))
	if len(k) < 5+n {
		t.Fatalf("%q is cut short", k)
	}
	rest := k[5+n:]
	if k[0] == spaceOrder {
		rest = rest[8:]
	}
	return string(k[5 : 5+n]), string(rest)
}
