package storetest

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

//go:embed shim/clock.c
var shimSource []byte

// clock is wall time as a test sets it, seen at once by a server that runs under the shim.
type clock struct{ page []byte }

func newClock(t testing.TB, path string) *clock {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(8); err != nil {
		t.Fatal(err)
	}
	page, err := syscall.Mmap(int(f.Fd()), 0, 8, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(page) })
	return &clock{page}
}

// cell is the shared word. A mapping begins at a page, so it is aligned.
func (c *clock) cell() *int64 { return (*int64)(unsafe.Pointer(&c.page[0])) }

func (c *clock) micros() int64 { return atomic.LoadInt64(c.cell()) }
func (c *clock) set(us int64)  { atomic.StoreInt64(c.cell(), us) }

// clocked starts a server whose wall time is the returned clock. The monotonic clock of its
// event loop stays real.
func clocked(t testing.TB) (*Server, *clock) {
	t.Helper()
	c, env := shim(t)
	return redisWith(t, env), c
}

// shim makes a clock and the environment in which a server, or one that it starts, follows it.
func shim(t testing.TB) (*clock, []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "storetest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	library, file := filepath.Join(dir, "clock.so"), filepath.Join(dir, "clock")
	compileShim(t, library)
	c := newClock(t, file)
	c.set(epoch)
	return c, []string{"LD_PRELOAD=" + library, "STORETEST_CLOCK=" + file}
}

// Jumps is the wall clock of a server that a test puts forward and back; otherwise it goes on like
// the machine's.
type Jumps struct {
	clock *clock
	ahead atomic.Int64 // of the machine's clock, µs
}

// By moves the clock.
func (j *Jumps) By(d time.Duration) {
	j.ahead.Add(d.Microseconds())
	j.clock.set(time.Now().UnixMicro() + j.ahead.Load())
}

// Jumpy is [Redis] with a clock that jumps. Without a C compiler, which that needs, the clock is
// nil: the fault is one that this machine cannot try, and the test says so.
func Jumpy(t testing.TB, args ...string) (*Server, *Jumps) {
	t.Helper()
	if compiler() == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI=true and no C compiler is installed, which the clock shim needs")
		}
		t.Log("skipped: jumps of the clock: no C compiler is installed")
		return Redis(t, args...), nil
	}
	c, env := shim(t)
	j := &Jumps{clock: c}
	j.By(0)
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for tick := time.NewTicker(pollEvery); ; {
			select {
			case <-tick.C:
				j.By(0)
			case <-done:
				tick.Stop()
				return
			}
		}
	}()
	t.Cleanup(func() { close(done); <-gone }) // after the mapping's own cleanup was registered, so before it
	return redisWith(t, env, args...), j
}

// run lets the clock go on by itself until stop: servers that are to find each other wait by it.
func (c *clock) run() (stop func()) {
	done, gone := make(chan struct{}), make(chan struct{})
	from, began := c.micros(), time.Now()
	go func() {
		defer close(gone)
		for tick := time.NewTicker(pollEvery); ; {
			select {
			case <-tick.C:
				c.set(from + time.Since(began).Microseconds())
			case <-done:
				tick.Stop()
				return
			}
		}
	}()
	return func() { close(done); <-gone }
}

func compiler() string {
	for _, name := range []string{"cc", "gcc", "clang"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

func compileShim(t testing.TB, to string) {
	t.Helper()
	cc := compiler()
	if cc == "" {
		missing(t, "no C compiler is installed, which the clock shim needs")
	}
	source := to + ".c"
	if err := os.WriteFile(source, shimSource, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(cc, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", to, source, "-ldl").CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cc, err, out)
	}
}
