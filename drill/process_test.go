package drill

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func startShell(t *testing.T, script string) *child {
	t.Helper()
	n := newNursery()
	t.Cleanup(n.close)
	c, err := n.start("/bin/sh", filepath.Join(t.TempDir(), "log"), "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.kill() })
	return c
}

func TestStopIsClean(t *testing.T) {
	c := startShell(t, "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done")
	until(t, "it runs", func() bool { return tail(c.log) != "" })
	if err := c.stop(10 * time.Second); err != nil {
		t.Error(err)
	}
}

func TestStopSaysWhatIsNotClean(t *testing.T) {
	for _, c := range []struct {
		name, script, err string
		grace             time.Duration
	}{
		{"fails at the end", "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done", "exit status 3", 10 * time.Second},
		{"does not listen", "trap '' TERM; echo up; while :; do sleep 0.01; done", "did not end", 100 * time.Millisecond},
		{"is gone already", "echo up; exit 4", "had ended before", 10 * time.Second},
	} {
		p := startShell(t, c.script)
		until(t, "it runs", func() bool { return tail(p.log) != "" })
		if c.err == "had ended before" {
			<-p.exited
		}
		if err := p.stop(c.grace); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestKillKnowsWhetherItHit(t *testing.T) {
	c := startShell(t, "sleep 60")
	if !c.kill() {
		t.Error("it was running")
	}
	if c := startShell(t, "exit 0"); true {
		<-c.exited
		if c.kill() {
			t.Error("it had ended by itself")
		}
	}
}

func TestReadyGivesTheAddressOrTheReason(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ready")
	c := startShell(t, "echo 127.0.0.1:1234 > "+file+".tmp; mv "+file+".tmp "+file+"; sleep 60")
	if addr, err := c.ready(file, 10*time.Second); err != nil || addr != "127.0.0.1:1234" {
		t.Errorf("%q %v", addr, err)
	}
	c = startShell(t, "echo no disk >&2; exit 1")
	if _, err := c.ready(file+"-2", 10*time.Second); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("%v", err)
	}
	c = startShell(t, "sleep 60")
	if _, err := c.ready(file+"-3", 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "not ready within") {
		t.Errorf("%v", err)
	}
}

// A drill that is killed cleans nothing up; its children end all the same.
func TestChildrenEndWithTheDrill(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs a kernel that ends children with their parent")
	}
	drill := exec.Command(os.Args[0])
	drill.Env = append(os.Environ(), childMode+"=1")
	out, err := drill.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := drill.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscanf(out, "child %d\n", &pid)
	if err != nil || syscall.Kill(pid, 0) != nil {
		t.Errorf("no child: %v", err)
	}
	_ = drill.Process.Kill()
	_ = drill.Wait()
	if pid > 0 {
		until(t, "the child is gone", func() bool { return gone(pid) })
	}
}

// gone says whether a process has ended; who collects it afterwards does not matter.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}
