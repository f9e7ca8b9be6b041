package drill

import (
	"net"
	"sync"
	"time"
)

// door is a proxy before a store, for some of those who ask it. What a way that is cut carries waits; when it is
// mended, that arrives late, or the connections break.
type door struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	moved  *sync.Cond
	target string
	shut   [2]bool       // what they ask, what they are answered
	late   time.Duration // that what is carried comes later
	conns  map[net.Conn]struct{}
	closed bool
}

func newDoor(target string) (*door, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &door{listener: l, target: target, conns: map[net.Conn]struct{}{}}
	d.moved = sync.NewCond(&d.mu)
	d.wg.Go(d.accept)
	return d, nil
}

func (d *door) addr() string { return d.listener.Addr().String() }

// lead has new connections go elsewhere, and breaks the others.
func (d *door) lead(target string) {
	d.mu.Lock()
	d.target = target
	d.mu.Unlock()
	d.sever()
}

func (d *door) cut(asks, answers bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = [2]bool{asks, answers}
}

// slow has everything that is carried come so much later.
func (d *door) slow(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.late = by
}

func (d *door) mend(hangUp bool) {
	if hangUp {
		d.sever()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = [2]bool{}
	d.moved.Broadcast()
}

func (d *door) sever() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		_ = c.Close()
	}
}

func (d *door) accept() {
	for {
		c, err := d.listener.Accept()
		if err != nil {
			return
		}
		d.wg.Go(func() { d.carry(c) })
	}
}

func (d *door) carry(c net.Conn) {
	defer c.Close()
	if !d.pass(0) {
		return
	}
	d.mu.Lock()
	target := d.target
	d.mu.Unlock()
	up, err := net.DialTimeout("tcp", target, time.Second)
	if err != nil {
		return
	}
	defer up.Close()
	if !d.keep(c, up) {
		return
	}
	defer d.forget(c, up)
	var both sync.WaitGroup
	both.Go(func() { d.copy(up, c, 0) })
	both.Go(func() { d.copy(c, up, 1) })
	both.Wait()
}

func (d *door) copy(dst, src net.Conn, way int) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !d.pass(way) {
				return
			}
			d.dawdle()
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			_ = d.pass(way) // the end of a connection waits too
			return
		}
	}
}

// pass waits while a way is cut.
func (d *door) pass(way int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.shut[way] && !d.closed {
		d.moved.Wait()
	}
	return !d.closed
}

// dawdle waits for as long as what is carried is late.
func (d *door) dawdle() {
	d.mu.Lock()
	end := time.Now().Add(d.late)
	for left := time.Until(end); left > 0 && d.late > 0 && !d.closed; left = time.Until(end) {
		d.mu.Unlock()
		time.Sleep(min(left, 10*time.Millisecond))
		d.mu.Lock()
	}
	d.mu.Unlock()
}

func (d *door) keep(cs ...net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range cs {
		d.conns[c] = struct{}{}
	}
	return !d.closed
}

func (d *door) forget(cs ...net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range cs {
		delete(d.conns, c)
	}
}

func (d *door) close() {
	d.mu.Lock()
	d.closed = true
	for c := range d.conns {
		_ = c.Close()
	}
	d.moved.Broadcast()
	d.mu.Unlock()
	_ = d.listener.Close()
	d.wg.Wait()
}
