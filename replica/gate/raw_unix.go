//go:build unix

package gate

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// rawConn is nil for connections that are not sockets of their own, such as TLS.
func rawConn(c net.Conn) syscall.RawConn {
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// tryRead reads once; false: nothing is there yet.
func (s *stream) tryRead(fd uintptr) bool {
	b := pieces.Get().(*[]byte)
	n, err := 0, error(nil)
	for {
		n, err = syscall.Read(int(fd), (*b)[:pieceSize])
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(err, syscall.EAGAIN) {
		s.free(b)
		return false
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		s.free(b)
		b = nil
	}
	s.buf, s.n, s.err = b, n, err
	return true
}

// tryWrite writes as much as fits without waiting.
func tryWrite(raw syscall.RawConn, p []byte) (n int) {
	if raw == nil {
		return 0
	}
	_ = raw.Write(func(fd uintptr) bool {
		for {
			k, err := syscall.Write(int(fd), p)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			n = max(k, 0) // an error shows again to whoever writes the rest
			return true
		}
	})
	return n
}
