package storetest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// used is how much processor a process has had, in ticks of 10 ms.
func used(t *testing.T, pid int) (ticks int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	for _, field := range fields[11:13] { // utime, stime
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return ticks
}

// A server whose clock stands in the past has nothing to do meanwhile: its threads that wait until a time of day do not spin.
func TestClockedServerRests(t *testing.T) {
	server, clock := clocked(t)
	clock.set(epoch)
	// The allocator's thread has pages to give back then.
	server.Admin(t, `EVAL "for i = 1, 100000 do redis.call('SET', i, string.rep('x', 100)) end return 1" 0`)
	server.Admin(t, "FLUSHALL")
	before := used(t, server.Pid())
	<-time.After(time.Second) // what it uses in this time is what is measured
	if ticks := used(t, server.Pid()) - before; ticks > 25 {
		t.Errorf("in a second it had the processor for %d0 ms", ticks)
	}
}
