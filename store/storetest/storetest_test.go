package storetest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

type setIn struct {
	Key   string `store:"key"`
	Value string
}

// swap returns what was there before.
var swap = store.Decide("sample.swap", store.Lua("return {redis.call('SET', KEYS[1], ARGV[1], 'GET') or ''}"),
	func(tx *store.Tx, in setIn) struct{ Old string } {
		old, _ := tx.Get(in.Key)
		tx.Set(in.Key, in.Value, store.Forever)
		return struct{ Old string }{old}
	})

func mustSwap(t *testing.T, s *store.Store, value string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		out, err := swap.Do(ctx, s, setIn{"{k}", value})
		if err == nil {
			return out.Old
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func TestEachIsEmptyEverywhere(t *testing.T) {
	var names []string
	for range 2 {
		Each(t, func(t *testing.T, s *store.Store) {
			_, name, _ := strings.Cut(t.Name(), "/")
			names = append(names, name+" "+s.Class().String())
			if old := mustSwap(t, s, t.Name()); old != "" {
				t.Errorf("it holds %q", old)
			}
		})
	}
	all := strings.Join(names, ", ")
	for _, want := range []string{"mem C", "file A"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in %s", want, all)
		}
	}
	if len(shared.servers) > 0 {
		t.Errorf("servers are left: %v", shared.users)
	}
}

func TestKillAndRestart(t *testing.T) {
	server := Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	s := open(t, server.URL(), store.Options{})
	mustSwap(t, s, "kept")
	pid := server.Pid()
	server.Kill()
	server.Kill() // of what is dead already: nothing
	if server.Pid() != 0 || syscall.Kill(pid, 0) == nil {
		t.Errorf("process %d is there", pid)
	}
	server.Restart()
	if got := mustSwap(t, s, "new"); got != "kept" {
		t.Errorf("after the restart: %q", got)
	}
	if now := server.Pid(); now == 0 || now == pid {
		t.Errorf("pid %d after %d", now, pid)
	}
}

func TestServerThatCannotStartSaysWhy(t *testing.T) {
	found := binaries()
	if len(found) == 0 {
		missing(t, "no server")
	}
	log := &recorder{TB: t}
	s := newServer(t, found[0], []string{"--no-such-option", "x"}, nil)
	defer s.remove()
	log.run(func() { s.start(log) })
	if !strings.Contains(log.fatal, "no-such-option") {
		t.Errorf("it says %q", log.fatal)
	}
}

func TestMissingEngine(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for ci, want := range map[string]string{"": "skip", "true": "fatal"} {
		t.Setenv("CI", ci)
		log := &recorder{TB: t}
		log.run(func() { Redis(log) })
		got := "nothing"
		switch {
		case strings.Contains(log.skip, "installed"):
			got = "skip"
		case strings.Contains(log.fatal, "installed"):
			got = "fatal"
		}
		if got != want {
			t.Errorf("CI=%q: %s (%q, %q)", ci, got, log.skip, log.fatal)
		}
	}
}

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	fatal, skip string
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skip(args ...any) {
	r.skip = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) run(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}

// A test binary that is killed cleans nothing up; its server must not stay.
func TestServerEndsWithItsParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a child with its parent")
	}
	if len(binaries()) == 0 {
		missing(t, "no server")
	}
	child := exec.Command(os.Args[0], "-test.run=^TestOrphanChild$", "-test.v")
	child.Env = append(os.Environ(), orphanEnv+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid, dir := 0, ""
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "%d %s", &pid, &dir) // other lines are the test's own
	}
	defer os.RemoveAll(dir)
	_ = child.Process.Kill()
	_ = child.Wait() // killed
	if pid == 0 {
		t.Fatal("the child started no server")
	}
	for end := time.Now().Add(10 * time.Second); running(pid); time.Sleep(pollEvery) {
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("server %d outlived its test", pid)
		}
	}
}

// running is false for a process that has ended and waits for somebody to ask how.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// The shim is what the differential test stands on.
func TestClockedServer(t *testing.T) {
	server, clock := clocked(t)
	for _, us := range []int64{epoch, epoch + 1, epoch + 999_999_999} {
		clock.set(us)
		if got, want := server.Admin(t, "TIME"), fmt.Sprintf("[%d %d]", us/1_000_000, us%1_000_000); got != want {
			t.Errorf("TIME is %s, not %s", got, want)
		}
	}
	clock.set(epoch)
	for at, want := range map[int64]string{100_999: "1", 101_000: "0"} {
		server.Admin(t, "SET k v PXAT "+fmt.Sprint(epoch/1000+100)) // the map has no order
		clock.set(epoch + at)
		if got := server.Admin(t, "EXISTS k"); got != want {
			t.Errorf("%d µs later: %s", at, got)
		}
		clock.set(epoch)
	}
}
