// Package repl speaks the replication protocol of Valkey and Redis, both ways: as a replica of
// an engine (Attach, Copy), which gives its stream of effects, and as the master of one (Feed),
// which makes it hold exactly the bytes that it is given. A Scanner finds where commands end.
//
// The protocol is that of PSYNC2 as Redis 4 and later and Valkey speak it.
package repl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrFullSync: the engine cannot continue from there (it was restarted, or its backlog is
	// too small). Nothing can be concluded from what it holds.
	ErrFullSync = errors.New("replica: the engine cannot continue its stream from there")
	// ErrRefused: the engine answered with an error, which is quoted.
	ErrRefused = errors.New("replica: the engine refused")
	// ErrProtocol: what came is not the replication protocol.
	ErrProtocol = errors.New("replica: unexpected bytes from the engine")
)

// Position is a place in a history: Offset bytes of ReplID's stream have been seen.
type Position struct {
	ReplID string
	Offset int64
}

// ackEvery keeps the engine from taking a replica that has nothing to acknowledge for dead.
// After a copy the engine waits for an acknowledgement that comes when it has seen the copy's
// end itself: they are frequent at first.
const (
	ackEvery = time.Second
	ackFirst = 20 * time.Millisecond
	firsts   = 50
)

// Attachment is a replica's connection to an engine. Read is for one goroutine; Ack and Close
// may be called beside it.
type Attachment struct {
	conn net.Conn
	r    *bufio.Reader
	id   string       // of the history; set by the handshake
	at   atomic.Int64 // bytes so far

	mu    sync.Mutex
	acked int64
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once
}

// Attach asks an engine to go on after a position; conn is authenticated. It owns conn and
// closes it on an error: ErrFullSync, ErrRefused, ErrProtocol, or one of the network.
func Attach(ctx context.Context, conn net.Conn, from Position) (*Attachment, error) {
	a := newAttachment(conn)
	err := a.within(ctx, func() error {
		if err := a.handshake(); err != nil {
			return err
		}
		answer, err := a.ask("PSYNC", from.ReplID, strconv.FormatInt(from.Offset+1, 10))
		if err != nil {
			return err
		}
		words := strings.Fields(answer)
		switch {
		case len(words) >= 1 && words[0] == "CONTINUE":
			a.id = from.ReplID
			a.at.Store(from.Offset)
			if len(words) == 2 {
				a.id = words[1]
			}
			return nil
		case len(words) >= 1 && words[0] == "FULLRESYNC":
			return ErrFullSync
		}
		return fmt.Errorf("%w: PSYNC: %.64q", ErrProtocol, answer)
	})
	return a.begun(err)
}

// Copy asks an engine for all it holds: an RDB, which it writes to w, and then the stream that
// follows it, from the attachment's Position on. conn is as for Attach. Clients of the
// engine are not held up, but for the fork it makes.
func Copy(ctx context.Context, conn net.Conn, w io.Writer) (*Attachment, error) {
	a := newAttachment(conn)
	err := a.within(ctx, func() error {
		if err := a.handshake(); err != nil {
			return err
		}
		answer, err := a.ask("PSYNC", "?", "-1")
		if err != nil {
			return err
		}
		words := strings.Fields(answer)
		if len(words) != 3 || words[0] != "FULLRESYNC" {
			return fmt.Errorf("%w: PSYNC: %.64q", ErrProtocol, answer)
		}
		offset, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil {
			return fmt.Errorf("%w: PSYNC: %.64q", ErrProtocol, answer)
		}
		a.id = words[1]
		a.at.Store(offset)
		return a.receive(w)
	})
	return a.begun(err)
}

func newAttachment(conn net.Conn) *Attachment {
	return &Attachment{
		conn: conn, r: bufio.NewReaderSize(conn, 16<<10),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
}

// within runs a step of the handshake until ctx ends.
func (a *Attachment) within(ctx context.Context, step func() error) error {
	free := context.AfterFunc(ctx, func() { _ = a.conn.SetDeadline(time.Unix(1, 0)) })
	err := step()
	if !free() && err == nil {
		err = ctx.Err()
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", ctx.Err(), err)
	}
	return err
}

func (a *Attachment) begun(err error) (*Attachment, error) {
	if err != nil {
		return nil, errors.Join(err, a.conn.Close())
	}
	a.mu.Lock()
	a.acked = a.at.Load()
	err = a.sendAck()
	a.mu.Unlock()
	if err != nil {
		return nil, errors.Join(err, a.conn.Close())
	}
	go a.keepAlive()
	return a, nil
}

func (a *Attachment) handshake() error {
	for _, words := range [][]string{
		{"REPLCONF", "listening-port", "0"},
		{"REPLCONF", "capa", "eof", "capa", "psync2"},
	} {
		if _, err := a.ask(words...); err != nil {
			return err
		}
	}
	return nil
}

// ask sends a command and reads a status; an engine that is busy sends empty lines before it.
func (a *Attachment) ask(words ...string) (string, error) {
	if _, err := a.conn.Write(command(words...)); err != nil {
		return "", err
	}
	line, err := a.line()
	if err != nil {
		return "", err
	}
	switch line[0] {
	case '+':
		return line[1:], nil
	case '-':
		return "", fmt.Errorf("%w: %s: %s", ErrRefused, words[0], line[1:])
	}
	return "", fmt.Errorf("%w: %s: %.64q", ErrProtocol, words[0], line)
}

// maxLine is far above the longest line of the handshake.
const maxLine = 4 << 10

// line reads the next line that is not empty.
func (a *Attachment) line() (string, error) {
	for {
		line, err := a.r.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, bufio.ErrBufferFull) || len(line) > maxLine {
				return "", fmt.Errorf("%w: a line without end", ErrProtocol)
			}
			return "", err
		}
		if text := strings.TrimRight(string(line), "\r\n"); text != "" {
			return text, nil
		}
	}
}

// Position is where the bytes end that Read has returned.
func (a *Attachment) Position() Position { return Position{ReplID: a.id, Offset: a.at.Load()} }

// Read gives the next bytes of the stream, in any pieces.
func (a *Attachment) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	a.at.Add(int64(n))
	return n, err
}

// Ack tells the engine how far this replica is; the engine's WAIT counts on it. It never goes back.
func (a *Attachment) Ack(offset int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if offset <= a.acked {
		return nil
	}
	a.acked = offset
	return a.sendAck()
}

// ackWithin bounds how long an engine that does not read can hold up an acknowledgement.
const ackWithin = 5 * time.Second

// sendAck needs mu.
func (a *Attachment) sendAck() error {
	if err := a.conn.SetWriteDeadline(time.Now().Add(ackWithin)); err != nil {
		return err
	}
	_, err := a.conn.Write(command("REPLCONF", "ACK", strconv.FormatInt(a.acked, 10)))
	return err
}

// keepAlive repeats the acknowledgement. A connection that is broken shows at Read.
func (a *Attachment) keepAlive() {
	defer close(a.done)
	t := time.NewTicker(ackFirst)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-a.stop:
			return
		case <-t.C:
		}
		if n == firsts {
			t.Reset(ackEvery)
		}
		a.mu.Lock()
		_ = a.sendAck() // Read finds the same error
		a.mu.Unlock()
	}
}

// Close ends the attachment and a Read that waits.
func (a *Attachment) Close() error {
	var err error
	a.once.Do(func() {
		close(a.stop)
		err = a.conn.Close()
		<-a.done
	})
	return err
}

// command is a command in the form of requests.
func command(words ...string) []byte {
	b := append([]byte{'*'}, strconv.Itoa(len(words))...)
	b = append(b, "\r\n"...)
	for _, w := range words {
		b = append(b, '$')
		b = append(b, strconv.Itoa(len(w))...)
		b = append(b, "\r\n"...)
		b = append(b, w...)
		b = append(b, "\r\n"...)
	}
	return b
}
