package bench

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"
)

// load is a client with many connections in one thread, which costs as little as redis-benchmark:
// each connection sends a batch that is ready, and the next one when all of its answers are there.
type load struct {
	conns    int
	commands int    // in a batch
	request  []byte // a batch
	answer   []byte // what it gets; '?' stands for any digit
}

// command is one in the form of requests.
func command(words ...string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(words))
	for _, w := range words {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(w), w)
	}
	return b
}

// line is a connection of a load.
type line struct {
	conn net.Conn
	got  []byte
}

// run asks the server at addr for about d and says how many commands a second were answered.
func (l load) run(t *testing.T, addr string, d time.Duration) float64 {
	t.Helper()
	poll, err := syscall.EpollCreate1(0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(poll) }()
	lines := map[int32]*line{}
	for range l.conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		lines[l.watch(t, poll, c)] = &line{conn: c}
	}
	for fd := range lines {
		if _, err := syscall.Write(int(fd), l.request); err != nil {
			t.Fatal(err)
		}
	}
	n, seconds, err := l.turn(poll, lines, d)
	if err != nil {
		t.Fatal(err)
	}
	return float64(n) / seconds
}

func (l load) watch(t *testing.T, poll int, c net.Conn) (fd int32) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(f uintptr) {
			fd = int32(f)
			err = syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, int(f), &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: fd})
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

var errSilent = errors.New("no answer for ten seconds")

func (l load) turn(poll int, lines map[int32]*line, d time.Duration) (commands int, seconds float64, err error) {
	events, buf := make([]syscall.EpollEvent, l.conns), make([]byte, 64<<10)
	for began := time.Now(); ; {
		n, err := syscall.EpollWait(poll, events, 10_000)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return 0, 0, err
		case n == 0:
			return 0, 0, errSilent
		}
		for _, e := range events[:n] {
			whole, err := l.hear(lines[e.Fd], int(e.Fd), buf)
			if err != nil {
				return 0, 0, err
			}
			if whole {
				commands += l.commands
			}
		}
		if took := time.Since(began); took > d {
			return commands, took.Seconds(), nil
		}
	}
}

// hear reads what has come; once a batch is answered the next one is sent.
func (l load) hear(c *line, fd int, buf []byte) (whole bool, err error) {
	n, err := syscall.Read(fd, buf)
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	if err != nil || n == 0 {
		return false, fmt.Errorf("the server closed a connection: %w", errors.Join(err, net.ErrClosed))
	}
	got := buf[:n]
	if len(c.got) > 0 || n < len(l.answer) {
		c.got = append(c.got, got...)
		got = c.got
	}
	if len(got) < len(l.answer) && !bytes.HasPrefix(got, []byte("-")) {
		return false, nil
	}
	if !l.fine(got) {
		return false, fmt.Errorf("answered %.200q, not %.200q", got, l.answer)
	}
	c.got = c.got[:0]
	if n, err := syscall.Write(fd, l.request); err != nil || n < len(l.request) {
		return true, fmt.Errorf("%d of %d bytes sent: %w", n, len(l.request), err)
	}
	return true, nil
}

func (l load) fine(got []byte) bool {
	if bytes.Equal(got, l.answer) {
		return true
	}
	if len(got) != len(l.answer) {
		return false
	}
	for i, b := range got {
		if b != l.answer[i] && (l.answer[i] != '?' || b < '1' || b > '9') {
			return false
		}
	}
	return true
}
