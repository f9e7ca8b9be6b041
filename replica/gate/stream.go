package gate

import (
	"net"
	"sync"
	"syscall"
)

// stream reads a connection piece by piece into buffers that exist only while there is
// something in them: thousands of idle clients cost little.
type stream struct {
	conn net.Conn
	raw  syscall.RawConn
	try  func(fd uintptr) bool
	buf  *[]byte
	n    int
	err  error
}

const pieceSize = 32 << 10

var pieces = sync.Pool{New: func() any { b := make([]byte, pieceSize); return &b }}

func newStream(c net.Conn) stream { return stream{conn: c, raw: rawConn(c)} }

// next waits for the next bytes; free gives them back.
func (s *stream) next() (*[]byte, error) {
	if s.raw == nil {
		return s.plain()
	}
	if s.try == nil {
		s.try = s.tryRead
	}
	if err := s.raw.Read(s.try); err != nil {
		return nil, err
	}
	if s.err != nil {
		return nil, s.err
	}
	*s.buf = (*s.buf)[:s.n]
	return s.buf, nil
}

func (s *stream) plain() (*[]byte, error) {
	b := pieces.Get().(*[]byte)
	n, err := s.conn.Read((*b)[:pieceSize])
	if n == 0 {
		s.free(b)
		return nil, err
	}
	*b = (*b)[:n]
	return b, nil
}

func (s *stream) free(b *[]byte) {
	*b = (*b)[:pieceSize]
	pieces.Put(b)
}
