package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 500 * time.Millisecond // so an engine that is back is noticed within about a second
)

// link remembers whether the engine answers. While it does not, one goroutine pings it with
// growing pauses, and calls fail at once instead of each waiting for its own deadline.
//
// It is also what makes ErrUnavailable common and ErrOutcomeUnknown rare: a cut is known as
// soon as the connection reports it, so only the calls that were on their way are in doubt.
type link struct {
	ping    func(context.Context) error
	timeout time.Duration
	log     *slog.Logger
	ctx     context.Context // done when the link is closed
	cancel  context.CancelFunc

	armed  atomic.Bool            // the store is open; before, Open itself reports what fails
	outage atomic.Pointer[outage] // nil while all is well
	mu     sync.Mutex             // orders suspect against close
	lost   int                    // calls given up since connections were last closed
	wg     sync.WaitGroup
	conns  map[*watched]bool // open ones
}

// outage is one time of doubt.
type outage struct {
	settled chan struct{} // closed when it is known to be down, or over
	reason  atomic.Pointer[error]
}

func newLink(ping func(context.Context) error, timeout time.Duration, log *slog.Logger) *link {
	l := &link{ping: ping, timeout: timeout, log: log, conns: map[*watched]bool{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// enter lets a call pass while all is well. While that is in doubt the call waits for the
// ping that decides; while the engine is down it gets the reason. Nothing is sent here.
func (l *link) enter(ctx context.Context) error {
	o := l.outage.Load()
	if o == nil {
		return nil
	}
	select {
	case <-o.settled:
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for the engine (%v): %w", ErrUnavailable, *o.reason.Load(), ctx.Err())
	}
	if l.outage.Load() != o {
		return nil
	}
	return fmt.Errorf("%w: %v", ErrUnavailable, *o.reason.Load())
}

func (l *link) arm() { l.armed.Store(true) }

// suspect starts an outage, unless there is one.
func (l *link) suspect(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.armed.Load() || l.outage.Load() != nil || l.ctx.Err() != nil {
		return
	}
	o, reason := &outage{settled: make(chan struct{})}, fmt.Errorf("no answer: %v", why)
	o.reason.Store(&reason)
	l.outage.Store(o)
	l.wg.Go(func() { l.mend(o) })
}

// mend pings until an answer ends the outage. The first failure settles nothing when it may be
// the old connection's end: the second ping dials a new one.
func (l *link) mend(o *outage) {
	began, pause, down := time.Now(), firstRetry, false
	for attempt := 0; ; attempt++ {
		err := l.try()
		if err == nil {
			break
		}
		o.reason.Store(&err)
		late := errors.Is(err, context.DeadlineExceeded)
		if late {
			// All who called on these connections have been told that their time is over.
			l.drop()
		}
		if !down && (late || attempt > 0) {
			down = true
			close(o.settled)
			l.log.Warn("store: engine does not answer", "error", err)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-l.ctx.Done():
			if !down {
				close(o.settled)
			}
			return
		}
		pause = min(2*pause, lastRetry)
	}
	l.outage.Store(nil)
	if !down {
		close(o.settled)
		return
	}
	l.log.Info("store: engine is back", "after", time.Since(began))
}

func (l *link) try() error {
	ctx, cancel := context.WithTimeout(l.ctx, l.timeout)
	defer cancel()
	return l.ping(ctx)
}

// close ends the goroutine, if there is one, and lets none start.
func (l *link) close() {
	l.mu.Lock()
	l.cancel()
	l.mu.Unlock()
	l.wg.Wait()
}

// drop closes connections that do not answer: they may be dead without saying so.
func (l *link) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.conns {
		_ = w.Conn.Close() // its reader learns of it
	}
}

// giveUp counts a call that got no answer, and closes connections that have owed one for too
// long. Before many given up calls fill the client's ring, a short while is too long.
func (l *link) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := l.timeout
	if l.lost++; l.lost >= inFlight/2 {
		l.lost, limit = 0, shortDebt
	}
	for w := range l.conns {
		if since := w.owed.Load(); since != 0 && time.Since(time.UnixMicro(since)) >= limit {
			_ = w.Conn.Close() // its reader learns of it
		}
	}
}

const shortDebt = 50 * time.Millisecond

// watched reports the end of a connection the moment that it is seen, before the client
// that reads from it has told anybody.
type watched struct {
	net.Conn
	link *link
	owed atomic.Int64 // since when it was written to without anything read; 0 when nothing is
}

func (l *link) watch(conn net.Conn) *watched {
	w := &watched{Conn: conn, link: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[w] = true
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.owed.Store(0)
	if err != nil {
		w.link.suspect(err)
	}
	return n, err
}

func (w *watched) Write(p []byte) (int, error) {
	w.owed.CompareAndSwap(0, time.Now().UnixMicro())
	return w.Conn.Write(p)
}

func (w *watched) Close() error {
	w.link.mu.Lock()
	delete(w.link.conns, w)
	w.link.mu.Unlock()
	return w.Conn.Close()
}
