package repl

import (
	"bufio"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/replica/resp"
)

// session is an engine's connection to the feed.
type session struct {
	conn  net.Conn
	r     *bufio.Reader
	mu    sync.Mutex // writes
	ended chan struct{}
}

func newSession(conn net.Conn) *session {
	return &session{conn: conn, r: bufio.NewReaderSize(conn, 4<<10), ended: make(chan struct{})}
}

// handshakeTime bounds how long a connection may take to say who it is.
const handshakeTime = 10 * time.Second

// handshake answers what a replica asks up to its PSYNC, and returns where that wants to go on.
func (s *session) handshake(user, password string) (Position, error) {
	if err := s.conn.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return Position{}, err
	}
	known := false
	for {
		words, err := s.read()
		if err != nil {
			return Position{}, err
		}
		switch name := strings.ToUpper(words[0]); {
		case name == "PING":
			err = s.write([]byte("+PONG\r\n"))
		case name == "AUTH" && len(words) == 3:
			known = same(words[1], user) && same(words[2], password)
			if !known {
				return Position{}, errors.Join(errors.New("wrong password"), s.write([]byte("-WRONGPASS wrong user or password\r\n")))
			}
			err = s.write([]byte("+OK\r\n"))
		case !known:
			return Position{}, errors.Join(errors.New("not authenticated"), s.write([]byte("-NOAUTH who are you?\r\n")))
		case name == "REPLCONF":
			err = s.write([]byte("+OK\r\n"))
		case name == "PSYNC" && len(words) == 3:
			return s.position(words)
		default:
			err = s.write([]byte("-ERR this is not an engine\r\n"))
		}
		if err != nil {
			return Position{}, err
		}
	}
}

func (s *session) position(words []string) (Position, error) {
	next, err := strconv.ParseInt(words[2], 10, 64)
	if err != nil {
		return Position{}, fmt.Errorf("%w: PSYNC %.32q", ErrProtocol, words[2])
	}
	return Position{ReplID: words[1], Offset: next - 1}, s.conn.SetDeadline(time.Time{})
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func (s *session) write(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.conn.SetWriteDeadline(time.Now().Add(loadTime)); err != nil {
		return err
	}
	_, err := s.conn.Write(p)
	return err
}

// keepAlive sends empty lines, which a replica that waits takes as a sign of life.
func (s *session) keepAlive(f *Feed) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	f.wg.Add(1)
	go func() {
		defer f.wg.Done()
		defer close(done)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-quit:
				return
			case <-t.C:
				if s.write([]byte("\n")) != nil {
					return
				}
			}
		}
	}()
	return func() { close(quit); <-done }
}

// The handshake's commands and acknowledgements are short.
var short = resp.Bounds{Words: 16, Word: 512}

// read gives the next command that the engine sends. While it loads a copy it sends an empty line each
// second, as a sign of life.
func (s *session) read() ([]string, error) {
	for {
		b, err := s.r.Peek(1)
		if err != nil {
			return nil, err
		}
		if b[0] != '\n' {
			break
		}
		_, _ = s.r.Discard(1) // it was peeked at
	}
	words, err := resp.ReadCommand(s.r, short)
	if errors.Is(err, resp.ErrProtocol) {
		err = fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return words, err
}
