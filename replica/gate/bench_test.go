package gate

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// What the gate costs: 50 connections, the engine alone and behind a gate whose log commits at once.
func BenchmarkGate(b *testing.B) {
	for _, c := range []struct {
		name, command string
		reply         int
	}{{"SET", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\nxxx\r\n", 5}, {"GET", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", 9}} {
		for _, pipeline := range []int{1, 16} {
			for _, way := range []string{"direct", "gate"} {
				b.Run(c.name+"/P"+map[int]string{1: "1", 16: "16"}[pipeline]+"/"+way, func(b *testing.B) {
					w := newWorld(b, nil)
					if _, err := w.engine.Do(b.Context(), "SET", "k", "xxx"); err != nil {
						b.Fatal(err)
					}
					run(b, w, way == "direct", strings.Repeat(c.command, pipeline), c.reply*pipeline, pipeline)
				})
			}
		}
	}
}

func run(b *testing.B, w *world, direct bool, say string, hears, pipeline int) {
	const conns = 50
	var wg sync.WaitGroup
	work := make(chan struct{}, b.N+1)
	for range (b.N + pipeline - 1) / pipeline {
		work <- struct{}{}
	}
	close(work)
	var all []net.Conn
	for range conns {
		var c net.Conn
		var err error
		if direct {
			c, err = w.engine.Client(b.Context())
		} else {
			c, err = net.Dial("tcp", w.addr)
		}
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, c)
	}
	b.ResetTimer()
	for _, c := range all {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := bufio.NewReader(c)
			for range work {
				if _, err := io.WriteString(c, say); err != nil {
					b.Error(err)
					return
				}
				if _, err := r.Discard(hears); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
	for _, c := range all {
		_ = c.Close()
	}
}
