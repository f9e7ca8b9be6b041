package repl

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrGone: the bytes asked for are no longer in the log. The engine gets a full copy.
var ErrGone = errors.New("replica: the log no longer reaches back that far")

// Source is what a Feed gives to an engine.
type Source interface {
	// Resume says from which offset an engine at that position goes on: its own; below 0, it
	// gets a full copy. It may wait; ctx ends with the engine's connection.
	Resume(ctx context.Context, from Position) (int64, error)
	// Snapshot opens the newest full copy, made at offset.
	Snapshot(ctx context.Context) (file io.ReadCloser, size, offset int64, err error)
	// Read gives committed bytes that follow offset after and end at a boundary or inside a
	// command whose end is committed too. It waits until there are some, or ctx ends. ErrGone.
	Read(ctx context.Context, after int64, p []byte) (int, error)
}

// Feed is the master of one engine: it makes it hold what its Source has, and nothing else.
type Feed struct {
	listener       net.Listener
	user, password string
	source         Source
	log            *slog.Logger
	stop           context.CancelFunc
	wg             sync.WaitGroup

	mu      sync.Mutex
	current *session
	given   map[string]int64 // ids that this feed gave out, and how far the engine was fed under each
	acked   int64
}

// NewFeed serves an engine that connects to l and knows user and password.
func NewFeed(l net.Listener, user, password string, source Source, log *slog.Logger) *Feed {
	ctx, stop := context.WithCancel(context.Background())
	f := &Feed{listener: l, user: user, password: password, source: source, log: log, stop: stop,
		given: map[string]int64{}}
	f.wg.Add(1)
	go f.accept(ctx)
	return f
}

// Port is where the engine finds its master.
func (f *Feed) Port() int { return f.listener.Addr().(*net.TCPAddr).Port }

// Acked is the offset that the engine said it has consumed, or -1 when none is connected.
func (f *Feed) Acked() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current == nil {
		return -1
	}
	return f.acked
}

// Forget makes every engine that comes from now on be judged by the Source, and cuts the one
// that is there.
func (f *Feed) Forget() {
	f.mu.Lock()
	f.given = map[string]int64{}
	f.mu.Unlock()
	f.Cut()
}

// Cut ends the engine's connection; it comes again by itself.
func (f *Feed) Cut() {
	f.mu.Lock()
	s := f.current
	f.mu.Unlock()
	if s != nil {
		_ = s.conn.Close() // its goroutine sees why
	}
}

// Close ends the feed. No goroutine is left when it returns.
func (f *Feed) Close() error {
	f.stop()
	err := f.listener.Close()
	f.Cut()
	f.wg.Wait()
	return err
}

func (f *Feed) accept(ctx context.Context) {
	defer f.wg.Done()
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			f.log.Warn("feed: cannot accept", "error", err)
			if !pause(ctx, 100*time.Millisecond) {
				return
			}
			continue
		}
		f.wg.Add(1)
		go f.serve(ctx, conn)
	}
}

func (f *Feed) serve(ctx context.Context, conn net.Conn) {
	defer f.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	s := newSession(conn)
	defer func() { _ = conn.Close() }() // ended either way
	from, err := s.handshake(f.user, f.password)
	if err != nil {
		f.log.Debug("feed: refused", "error", err)
		return
	}
	f.take(s)
	defer f.leave(s)
	err = f.feed(ctx, s, from)
	if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		f.log.Debug("feed: the engine's connection ended", "error", err)
	}
}

// take makes s the only session: an engine that comes again has given up its earlier connection.
func (f *Feed) take(s *session) {
	f.mu.Lock()
	before := f.current
	f.current, f.acked = s, -1
	f.mu.Unlock()
	if before != nil {
		_ = before.conn.Close()
		<-before.ended
	}
}

func (f *Feed) leave(s *session) {
	f.mu.Lock()
	if f.current == s {
		f.current = nil
	}
	f.mu.Unlock()
	close(s.ended)
}

func (f *Feed) feed(ctx context.Context, s *session, from Position) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.wg.Add(1)
	go func() {
		defer f.wg.Done()
		cancel(f.listen(s))
	}()
	defer func() { _ = s.conn.Close() }() // ends listen
	at, err := f.resumes(ctx, s, from)
	if err != nil {
		return err
	}
	id, resumes := newID(), at >= 0
	if resumes {
		f.give(id, at)
		err = s.write([]byte("+CONTINUE " + id + "\r\n"))
	} else {
		at, err = f.fullSync(ctx, s, id)
	}
	if err != nil {
		return err
	}
	f.log.Info("engine is fed", "offset", at, "full_sync", !resumes)
	return f.stream(ctx, s, id, at)
}

func (f *Feed) resumes(ctx context.Context, s *session, from Position) (int64, error) {
	f.mu.Lock()
	fed, ours := f.given[from.ReplID]
	f.mu.Unlock()
	switch {
	case ours && from.Offset <= fed:
		return from.Offset, nil
	case ours, from.ReplID == "?":
		return -1, nil
	}
	stop := s.keepAlive(f)
	defer stop()
	return f.source.Resume(ctx, from)
}

func (f *Feed) fullSync(ctx context.Context, s *session, id string) (at int64, err error) {
	stop := s.keepAlive(f)
	file, size, at, err := f.source.Snapshot(ctx)
	stop()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	f.give(id, at)
	if err := s.write([]byte("+FULLRESYNC " + id + " " + strconv.FormatInt(at, 10) + "\r\n")); err != nil {
		return 0, err
	}
	return at, f.sendRDB(s, file, size)
}

// batch is how long bytes may gather once the engine has been given some: an engine that is
// fed in small pieces costs a core that clients could use.
const batch = 5 * time.Millisecond

func (f *Feed) stream(ctx context.Context, s *session, id string, at int64) error {
	buf := make([]byte, 1<<20)
	for {
		n, err := f.source.Read(ctx, at, buf)
		if errors.Is(err, ErrGone) {
			f.mu.Lock()
			delete(f.given, id) // when it comes again it gets a full copy
			f.mu.Unlock()
		}
		if err != nil {
			return err
		}
		f.give(id, at+int64(n))
		if err := s.write(buf[:n]); err != nil {
			return err
		}
		at += int64(n)
		if n < len(buf) && !pause(ctx, batch) {
			return ctx.Err()
		}
	}
}

// give notes what the engine is about to have under an id, before it can: one whose connection ends
// goes on from there, also when nothing has followed a full copy yet.
func (f *Feed) give(id string, upto int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.given[id] = upto
	f.forgetOld(id)
}

// maxGiven bounds the ids that are remembered: an engine comes with its last one.
const maxGiven = 8

func (f *Feed) forgetOld(but string) {
	for id := range f.given {
		if len(f.given) <= maxGiven {
			return
		}
		if id != but {
			delete(f.given, id)
		}
	}
}

// listen reads the engine's acknowledgements.
func (f *Feed) listen(s *session) error {
	for {
		words, err := s.read()
		if err != nil {
			return err
		}
		if len(words) == 3 && strings.EqualFold(words[0], "REPLCONF") && strings.EqualFold(words[1], "ACK") {
			offset, err := strconv.ParseInt(words[2], 10, 64)
			if err != nil {
				return fmt.Errorf("%w: ACK %.32q", ErrProtocol, words[2])
			}
			f.mu.Lock()
			if f.current == s {
				f.acked = offset
			}
			f.mu.Unlock()
		}
	}
}

// newID is a name for a history that this feed makes.
func newID() string {
	var b [20]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
