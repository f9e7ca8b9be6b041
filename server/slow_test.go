package server_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// listen serves the rig as `holdfast serve` does, with its limits for connections.
func (r *rig) listen() (address string) {
	r.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.server.Serve(ctx, l, time.Second) }()
	r.closing("listener", func() error { stop(); return <-ended })
	return l.Addr().String()
}

// ask is one request of somebody who does nothing odd.
func ask(t *testing.T, address string) (took time.Duration) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	began := time.Now()
	resp, err := client.Get("http://" + address + "/v1/sales")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %v", resp.StatusCode, err)
	}
	return time.Since(began)
}

// A client that sends slowly, or takes slowly, costs a connection and not for long.
func TestSlowClients(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a slow client may")
	}
	r := newRig(t)
	r.sale("drop", 1)
	before := r.rows()
	address := r.listen()
	head := "POST /v1/sales/drop/holds HTTP/1.1\r\nHost: " + address + "\r\nIdempotency-Key: \"k\"\r\nContent-Type: application/json\r\n"
	var all sync.WaitGroup
	for name, c := range map[string]struct {
		sends  string
		drips  string // again and again
		within time.Duration
	}{
		"nothing":          {"", "", 7 * time.Second},
		"half a header":    {head, "", 7 * time.Second},
		"a header by bits": {head, "X-A: b\r\n", 7 * time.Second},
		"half a body":      {head + "Content-Length: 20\r\n\r\n{", "", 17 * time.Second},
		"a body by bits":   {head + "Content-Length: 9000\r\n\r\n{", " ", 17 * time.Second},
	} {
		all.Go(func() {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			began := time.Now()
			_ = conn.SetDeadline(began.Add(c.within))
			if _, err := io.WriteString(conn, c.sends); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if c.drips != "" {
				go func() {
					for time.Since(began) < c.within {
						if _, err := io.WriteString(conn, c.drips); err != nil {
							return
						}
						time.Sleep(200 * time.Millisecond)
					}
				}()
			}
			// An answer or none: what counts is that the connection ends.
			answer, err := io.ReadAll(conn)
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Errorf("%s: still open after %s", name, c.within)
			}
			if len(answer) > 0 && !strings.Contains(string(answer), " 408 ") && !strings.Contains(string(answer), " 400 ") {
				t.Errorf("%s: %q", name, answer)
			}
		})
	}
	if took := ask(t, address); took > time.Second {
		t.Errorf("beside slow clients a request took %s", took)
	}
	all.Wait()
	if n := r.rows(); n != before {
		t.Errorf("%d rows were written", n-before)
	}
}

// Thousands of clients that are connected and silent cost memory, and nobody's time.
func TestIdleConnections(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Skip(err)
	}
	many := min(8000, (int(limit.Cur)-1000)/2) // both ends are ours
	if many < 100 {
		t.Skipf("only %d files may be open", limit.Cur)
	}
	r := newRig(t)
	address := r.listen()
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := memory()
	conns := make([]net.Conn, many)
	request := fmt.Sprintf("GET /livez HTTP/1.1\r\nHost: %s\r\n\r\n", address)
	for i := range conns {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		conns[i] = conn
	}
	for _, conn := range conns {
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	each := int64(memory()-before) / int64(many)
	took := ask(t, address)
	t.Logf("%d idle connections, %d bytes each with the client's end; a request took %s", many, each, took)
	if each > 40<<10 {
		t.Errorf("an idle connection costs %d bytes", each)
	}
	if took > time.Second {
		t.Errorf("beside %d idle connections a request took %s", many, took)
	}
}
