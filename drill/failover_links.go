package drill

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// links are the nodes' connections to one another: each node is reached through a proxy, which
// knows by its address who calls. What a direction that is cut carries waits; when it is mended,
// that arrives late, or the connection breaks.
type links struct {
	proxies []net.Listener
	targets []string
	index   map[string]int // by IP
	wg      sync.WaitGroup

	mu     sync.Mutex
	mended *sync.Cond
	cut    map[[2]int]bool // from, to
	conns  map[net.Conn]struct{}
	closed bool
	met    atomic.Int64 // bytes that met a cut
}

// network is what carries what nodes tell one another, and can be cut, one direction at a time.
type network interface {
	set(from, to int, cut bool) error
	sever()       // breaks every connection: what waited is lost
	stuck() int64 // grows when something met a cut
	close()
}

func (l *links) stuck() int64 { return l.met.Load() }

func newLinks(nodes []*nodeProcess) (*links, error) {
	l := &links{index: map[string]int{}, cut: map[[2]int]bool{}, conns: map[net.Conn]struct{}{}}
	l.mended = sync.NewCond(&l.mu)
	for i, n := range nodes {
		p, err := net.Listen("tcp", net.JoinHostPort(n.ip, "0"))
		if err != nil {
			l.close()
			return nil, err
		}
		l.proxies, l.targets = append(l.proxies, p), append(l.targets, n.raft)
		l.index[n.ip] = i
	}
	for i := range l.proxies {
		l.wg.Add(1)
		go l.accept(i)
	}
	return l, nil
}

func (l *links) addr(i int) string { return l.proxies[i].Addr().String() }

func (l *links) accept(to int) {
	defer l.wg.Done()
	for {
		c, err := l.proxies[to].Accept()
		if err != nil {
			return
		}
		from, known := l.index[c.RemoteAddr().(*net.TCPAddr).IP.String()]
		if !known {
			_ = c.Close()
			continue
		}
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			l.carry(c, from, to)
		}()
	}
}

func (l *links) carry(c net.Conn, from, to int) {
	if !l.pass(from, to, 0) || !l.pass(to, from, 0) {
		_ = c.Close()
		return
	}
	up, err := net.Dial("tcp", l.targets[to])
	if err != nil || !l.keep(c, up) {
		_ = c.Close()
		if up != nil {
			_ = up.Close()
		}
		return
	}
	defer l.forget(c, up)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.copy(c, up, to, from)
	}()
	l.copy(up, c, from, to)
	<-done
}

func (l *links) copy(dst, src net.Conn, from, to int) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !l.pass(from, to, n) {
				break
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				_ = dst.(*net.TCPConn).CloseWrite()
				return
			}
			break
		}
	}
	_ = dst.Close()
	_ = src.Close()
}

// pass waits while the direction is cut.
func (l *links) pass(from, to, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut[[2]int{from, to}] {
		l.met.Add(int64(n) + 1)
	}
	for l.cut[[2]int{from, to}] && !l.closed {
		l.mended.Wait()
	}
	return !l.closed
}

func (l *links) set(from, to int, cut bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut[[2]int{from, to}] = cut
	l.mended.Broadcast()
	return nil
}

func (l *links) sever() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.Close()
	}
}

func (l *links) keep(cs ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range cs {
		l.conns[c] = struct{}{}
	}
	return !l.closed
}

func (l *links) forget(cs ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range cs {
		delete(l.conns, c)
		_ = c.Close()
	}
}

func (l *links) close() {
	l.mu.Lock()
	l.closed = true
	for c := range l.conns {
		_ = c.Close()
	}
	l.mended.Broadcast()
	l.mu.Unlock()
	for _, p := range l.proxies {
		_ = p.Close()
	}
	l.wg.Wait()
}
