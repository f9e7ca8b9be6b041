package drill

import (
	"bufio"
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A mark that was made before the store was emptied and is told of after it does not count as one
// that has to be there.
func TestMarksAndAFlush(t *testing.T) {
	var set atomic.Int64 // by the store
	m := &marks{dial: func() (*respConn, error) {
		here, there := net.Pipe()
		go func() {
			r := bufio.NewReader(there)
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if strings.TrimSpace(line) == "SET" {
					set.Add(1)
					time.Sleep(20 * time.Millisecond) // the answer's way
					if _, err := there.Write([]byte("+OK\r\n")); err != nil {
						return
					}
				}
			}
		}()
		return &respConn{Conn: here, r: bufio.NewReader(here)}, nil
	}}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.write(ctx) }()
	for end := time.Now().Add(10 * time.Second); set.Load() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no marks")
		}
	}
	var before int64
	_ = m.during(func() error { before = set.Load(); return nil })
	for end := time.Now().Add(10 * time.Second); set.Load() < before+3; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no marks after the flush")
		}
	}
	stop()
	<-done
	for _, n := range m.acked {
		if int64(n) < before {
			t.Errorf("mark %d of %d before the flush is asked for", n, before)
		}
	}
	if len(m.acked) == 0 {
		t.Error("no mark was acknowledged")
	}
}
