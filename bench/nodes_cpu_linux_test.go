package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// used is the time that a process has had on a processor, in seconds.
func used(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// pid (name) state ppid …; the name may hold anything. Times are in ticks of 10 ms.
	words := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks int64
	for _, w := range words[11:13] {
		n, _ := strconv.ParseInt(w, 10, 64) // a number, by proc(5)
		ticks += n
	}
	return float64(ticks) / 100
}

// account says which processes have spent how much on each command.
func (f *nodeFleet) account(t *testing.T, leader *node) func(row string, commands float64) {
	t.Helper()
	type part struct {
		name string
		pid  int
	}
	var parts []part
	for _, n := range f.nodes {
		role := "follower"
		if n == leader {
			role = "leader"
		}
		parts = append(parts, part{role, n.process.cmd.Process.Pid}, part{role + "'s engine", f.status(n).Engine.Pid})
	}
	parts = append(parts, part{"client", os.Getpid()})
	before := make([]float64, len(parts))
	for i, p := range parts {
		before[i] = used(p.pid)
	}
	return func(row string, commands float64) {
		spent, all := map[string]float64{}, 0.0
		for i, p := range parts {
			d := 1e6 * (used(p.pid) - before[i]) / commands
			spent[p.name] += d
			all += d
		}
		t.Logf("%s: %.1f µs of processors for each: leader %.1f, its engine %.1f, two followers %.1f, their engines %.1f, client %.1f",
			row, all, spent["leader"], spent["leader's engine"], spent["follower"], spent["follower's engine"], spent["client"])
	}
}
