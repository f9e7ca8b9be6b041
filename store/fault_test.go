package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

var errDisk = errors.New("the disk is broken")

// breaker fails the nth operation that changes the disk, and all that follow if stays.
type breaker struct {
	nth   int64
	stays bool
	n     atomic.Int64
	hit   atomic.Bool
}

func (b *breaker) String() string { return "breaker" }

func (b *breaker) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	n := b.n.Add(1)
	if n == b.nth || b.stays && n > b.nth {
		b.hit.Store(true)
		return errDisk
	}
	return nil
}

// flicker fails one operation that changes the disk: the one at which in reaches 0.
type flicker struct{ in atomic.Int64 }

func (f *flicker) String() string { return "flicker" }

func (f *flicker) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && f.in.Add(-1) == 0 {
		return errDisk
	}
	return nil
}

// told is what the caller of each step heard.
type told struct{ done, unknown, none int64 }

// workload makes steps one after the other, and has Pebble change its log and write a file in
// between, because that is where it cannot bear a fault.
func workload(t *testing.T, s *Store, e *embedded) (got told) {
	t.Helper()
	for i := range 30 {
		if i == 10 || i == 20 {
			e.mu.RLock()
			if e.usable() == nil {
				_ = e.db.Flush() // a fault shows in the steps
			}
			e.mu.RUnlock()
		}
		_, err := step.Do(context.Background(), s, worker(0, strings.Repeat("x", 3000)))
		switch {
		case err == nil:
			if got.unknown+got.none > 0 {
				t.Fatalf("step %d was made after the engine had ended", i)
			}
			got.done++
		case errors.Is(err, ErrOutcomeUnknown) && !errors.Is(err, ErrClosed):
			got.unknown++
		case errors.Is(err, ErrUnavailable) && errors.Is(err, errDisk):
			got.none++
		default:
			t.Fatalf("step %d: %v", i, err)
		}
	}
	return got
}

// TestDiskFaults fails the first operation on the disk, then the second, and so on until a run
// meets no fault. Whatever fails, the process lives, callers get typed errors that are true,
// close returns, and the directory opens again with all that was acknowledged.
func TestDiskFaults(t *testing.T) {
	for _, stays := range []bool{false, true} {
		t.Run(fmt.Sprintf("stays=%v", stays), func(t *testing.T) {
			step := int64(1)
			if testing.Short() {
				step = 7
			}
			var runs, ended int
			for nth := int64(1); ; nth += step {
				b := &breaker{nth: nth, stays: stays}
				if faultRun(t, b) {
					ended++
				}
				runs++
				if !b.hit.Load() {
					break
				}
			}
			t.Logf("%d runs, %d ended the engine", runs, ended)
			if runs < 10 || ended < runs/2 {
				t.Errorf("%d runs with %d ended engines test too little", runs, ended)
			}
		})
	}
}

// faultRun is one run; it tells whether the engine ended.
func faultRun(t *testing.T, b *breaker) bool {
	t.Helper()
	files := vfs.NewCrashableMem()
	opts := Options{Timeout: 2 * time.Second, MaxBytes: 8 << 20, MinFree: -1 << 60, Clock: time.Now}
	opts.Logger = quiet
	e, err := openEmbedded("/dir/store", errorfs.Wrap(files, b), true, opts)
	if err != nil {
		if !errors.Is(err, errDisk) {
			t.Fatalf("fault %d: open: %v", b.nth, err)
		}
		return false
	}
	got := workload(t, &Store{engine: e}, e)
	err = e.close()
	if got.done < 30 && !errors.Is(err, errDisk) {
		t.Fatalf("fault %d: callers heard %+v, and close says %v", b.nth, got, err)
	}

	s, e := openOn(t, files.CrashClone(vfs.CrashCloneCfg{}), Options{})
	n := steps(t, s, 0)
	if n < got.done || n > got.done+got.unknown {
		t.Fatalf("fault %d: callers heard %+v, and %d steps are there", b.nth, got, n)
	}
	verifyFormat(t, e)
	if err := e.close(); err != nil {
		t.Fatal(err)
	}
	return got.done < 30
}

// TestDiskFaultsUnderLoad breaks the disk at a random moment while many callers wait for it.
func TestDiskFaultsUnderLoad(t *testing.T) {
	rounds := 10
	if testing.Short() {
		rounds = 5
	}
	r := newRand(t)
	opts := Options{Timeout: 5 * time.Second, MaxBytes: 64 << 20, MinFree: -1 << 60, Clock: time.Now, Logger: quiet}
	opening := operations(t, opts)
	for round := range rounds {
		files := vfs.NewCrashableMem()
		b := &breaker{nth: 2*opening + r.Int64N(400), stays: r.IntN(2) == 0}
		e, err := openEmbedded("/dir/store", errorfs.Wrap(files, b), true, opts)
		if err != nil {
			t.Fatal(err)
		}
		const callers = 20
		heard := make([]told, callers)
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() { heard[i] = stepUntilError(t, &Store{engine: e}, i) })
		}
		wg.Wait()
		if err := e.close(); !errors.Is(err, errDisk) {
			t.Fatalf("close: %v", err)
		}
		s, e := openOn(t, files.CrashClone(vfs.CrashCloneCfg{}), Options{})
		for i, h := range heard {
			if n := steps(t, s, i); n < h.done || n > h.done+h.unknown {
				t.Fatalf("round %d: caller %d heard %+v, and %d steps are there", round, i, h, n)
			}
		}
		verifyFormat(t, e)
		if err := e.close(); err != nil {
			t.Fatal(err)
		}
	}
}

type tellIn struct {
	Key     string `store:"key"`
	Channel string `store:"channel"`
}

var tell = Decide("test.tell", Lua(""), func(tx *Tx, in tellIn) intOut {
	tx.Notify(in.Channel, "x")
	return intOut{}
})

// TestReopens breaks the disk for a moment, again and again, while callers wait for it: the store
// comes back by itself with all that was answered, and whoever listened goes on hearing.
func TestReopens(t *testing.T) {
	r := newRand(t)
	opts := Options{Timeout: 5 * time.Second, MaxBytes: 64 << 20, MinFree: -1 << 60, Clock: time.Now, Logger: quiet}
	files := vfs.NewCrashableMem()
	b := &flicker{}
	engine, err := openReopening(opts, func() (*embedded, error) {
		return openEmbedded("/dir/store", errorfs.Wrap(files, b), true, opts)
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{engine: engine}
	var notes atomic.Int64
	stop, err := s.Subscribe(t.Context(), "c", func(string) { notes.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	say := func() error {
		_, err := tell.Do(context.Background(), s, tellIn{"{c}", "c"})
		return err
	}
	const callers, faults = 20, 6
	heard := make([]told, callers)
	var wg sync.WaitGroup
	over := make(chan struct{})
	for i := range callers {
		wg.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				_, err := incr.Do(context.Background(), s, keyIn{fmt.Sprint(i)})
				switch {
				case err == nil:
					heard[i].done++
				case errors.Is(err, ErrOutcomeUnknown):
					heard[i].unknown++
				case !errors.Is(err, ErrUnavailable):
					t.Error(err)
				}
			}
		})
	}
	for range faults {
		b.in.Store(r.Int64N(40) + 1)
		eventually(t, "the disk fails", func() bool { return b.in.Load() <= 0 })
		eventually(t, "it answers again", func() bool {
			return say() == nil
		})
	}
	before := notes.Load()
	eventually(t, "a note is heard", func() bool {
		_ = say()
		return notes.Load() > before
	})
	close(over)
	wg.Wait()
	stop()
	if err := s.Close(); err != nil {
		t.Error(err)
	}

	s, e := openOn(t, files.CrashClone(vfs.CrashCloneCfg{}), Options{})
	for i, h := range heard {
		n, err := look.Do(context.Background(), s, keyIn{fmt.Sprint(i)})
		if err != nil || n.N < h.done || n.N > h.done+h.unknown || h.done == 0 {
			t.Errorf("caller %d heard %+v, and %d are there (%v)", i, h, n.N, err)
		}
	}
	verifyFormat(t, e)
}

// operations counts those that open and close an engine.
func operations(t *testing.T, opts Options) int64 {
	t.Helper()
	b := &breaker{nth: 1 << 60}
	e, err := openEmbedded("/dir/store", errorfs.Wrap(vfs.NewCrashableMem(), b), true, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.close(); err != nil {
		t.Fatal(err)
	}
	return b.n.Load()
}

func stepUntilError(t *testing.T, s *Store, i int) (h told) {
	for {
		_, err := step.Do(context.Background(), s, worker(i, strings.Repeat("x", 500)))
		switch {
		case err == nil:
			h.done++
			continue
		case errors.Is(err, ErrOutcomeUnknown):
			h.unknown++
		case errors.Is(err, ErrUnavailable):
			h.none++
		default:
			t.Error(err)
		}
		return h
	}
}

// brake holds back syncs.
type brake struct {
	vfs.FS
	gate atomic.Pointer[chan struct{}]
}

func (b *brake) hold() (release func()) {
	gate := make(chan struct{})
	b.gate.Store(&gate)
	return sync.OnceFunc(func() { b.gate.Store(nil); close(gate) })
}

func (b *brake) wait() {
	if gate := b.gate.Load(); gate != nil {
		<-*gate
	}
}

func (b *brake) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := b.FS.Create(name, c)
	return &brakedFile{f, b}, err
}

type brakedFile struct {
	vfs.File
	brake *brake
}

func (f *brakedFile) Sync() error     { f.brake.wait(); return f.File.Sync() }
func (f *brakedFile) SyncData() error { f.brake.wait(); return f.File.SyncData() }

// A disk that does not answer costs each caller its timeout, and no one is told more than what
// is known.
func TestDiskHangs(t *testing.T) {
	files := &brake{FS: vfs.NewCrashableMem()}
	s, _ := openOn(t, files, Options{Timeout: 50 * time.Millisecond})
	if _, err := incr.Do(context.Background(), s, keyIn{"k"}); err != nil {
		t.Fatal(err)
	}
	release := files.hold()
	defer release()

	began := time.Now()
	if _, err := incr.Do(context.Background(), s, keyIn{"k"}); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("a write: %v, want ErrOutcomeUnknown", err)
	}
	if _, err := look.Do(context.Background(), s, keyIn{"k"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a read of what is not on disk: %v, want ErrUnavailable", err)
	}
	if out, err := look.Do(context.Background(), s, keyIn{"other"}); err != nil || out.N != 0 {
		t.Errorf("a read in another slot: %v, %v, want no error", out, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	if _, err := incr.Do(ctx, s, keyIn{"k"}); !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a write whose caller gives up: %v, want ErrOutcomeUnknown and the caller's reason", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("four calls took %s", took)
	}

	release()
	if out, err := look.Do(context.Background(), s, keyIn{"k"}); err != nil || out.N != 3 {
		t.Errorf("when the disk answers again: %v, %v, want 3", out, err)
	}
}

// The host's process must live when Pebble calls something fatal.
func TestFatalEndsTheEngineOnly(t *testing.T) {
	s, e := openOn(t, vfs.NewMem(), Options{})
	pebbleLogger{quiet, e.ended}.Fatalf("an assertion of %s", "Pebble")
	_, err := incr.Do(context.Background(), s, keyIn{"k"})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "an assertion of Pebble") {
		t.Errorf("got %v", err)
	}
	if err := s.Ping(context.Background()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("ping: %v", err)
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "an assertion of Pebble") {
		t.Errorf("close: %v", err)
	}
}

// What cannot be read is an error with a name, never a panic, and writes nothing.
func TestCorruptValues(t *testing.T) {
	s, e := openOn(t, vfs.NewMem(), Options{})
	plant := func(key []byte, value string) {
		if err := e.db.Set(key, []byte(value), nil); err != nil {
			t.Fatal(err)
		}
	}
	plant(recordKey("short"), "s")
	plant(recordKey("type"), "?12345678")
	plant(recordKey("count"), "h12345678")
	plant(recordKey("none"), "z"+strings.Repeat("\x00", 16))
	plant(recordKey("deadline"), "s\xff2345678value")
	for _, key := range []string{"short", "type", "count", "none", "deadline"} {
		err := decideOn(s, key, func(tx *Tx) { tx.Set(key, "new", Forever) })
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", key, err)
		}
	}
	if err := decideOn(s, "set", func(tx *Tx) { tx.ZAdd("set", 1, "m") }); err != nil {
		t.Fatal(err)
	}
	plant(elementKey(spaceScore, "set", "m"), "1")
	if err := decideOn(s, "set", func(tx *Tx) { tx.ZRem("set", "m") }); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a score: %v, want ErrCorrupt", err)
	}
}
