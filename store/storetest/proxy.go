package storetest

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Weather is what a Proxy does with what passes through it.
type Weather struct {
	DropUp   bool          // what the client sends is swallowed
	DropDown bool          // what the engine answers is swallowed: it has happened, and nobody is told
	Delay    time.Duration // each piece is held back so long, in both directions
}

// Proxy is a network between a store and its engine, on loopback, that a test makes bad. A
// connection that has lost something stays dead, as behind a firewall that has forgotten it:
// getting over that is the client's task. It ends with the test.
type Proxy struct {
	listener net.Listener
	engine   *Server
	wg       sync.WaitGroup

	mu    sync.Mutex
	now   Weather
	conns []net.Conn
}

// NewProxy starts a proxy in front of an engine.
func NewProxy(t testing.TB, engine *Server) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, engine: engine}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// URL is what store.Open takes.
func (p *Proxy) URL() string { return "redis://" + p.listener.Addr().String() }

// Set changes the weather, for connections that are open too.
func (p *Proxy) Set(w Weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = w
}

// Cut closes every connection, in the middle of whatever is on its way.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

func (p *Proxy) weather() Weather {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		engine, err := net.Dial("unix", strings.TrimPrefix(p.engine.URL(), "unix:"))
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, engine)
		p.mu.Unlock()
		p.wg.Go(func() { p.carry(client, engine, func(w Weather) bool { return w.DropUp }) })
		p.wg.Go(func() { p.carry(engine, client, func(w Weather) bool { return w.DropDown }) })
	}
}

func (p *Proxy) carry(from, to net.Conn, drops func(Weather) bool) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for lost := false; ; {
		n, err := from.Read(buf)
		if n > 0 {
			w := p.weather()
			lost = lost || drops(w)
			time.Sleep(w.Delay) // what a slow network does; nothing is waited for
			if !lost {
				_, _ = to.Write(buf[:n]) // a failure shows at the next Read
			}
		}
		if err != nil {
			return
		}
	}
}
