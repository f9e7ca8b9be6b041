package store

import (
	"log/slog"
	"slices"
	"sync"
)

// noteBacklog bounds what waits for one slow listener; what does not fit is dropped.
const noteBacklog = 256

type note struct {
	channel, payload string
	kept             bool // the channel was read from the store
}

// notifier hands notes to listeners, each on a goroutine of its own, so that none of them
// holds up a decision or another listener.
type notifier struct {
	log    *slog.Logger
	wg     sync.WaitGroup
	mu     sync.RWMutex
	closed bool
	byName map[string][]*earshot
}

// earshot is one listener with what waits for it.
type earshot struct {
	fn     func(payload string)
	queue  chan string
	gone   chan struct{} // closed when it no longer listens
	leave  func()        // closes gone, once
	missed sync.Once
}

func newNotifier(log *slog.Logger) *notifier {
	return &notifier{log: log, byName: map[string][]*earshot{}}
}

// publish never waits.
func (n *notifier) publish(notes []note) {
	if len(notes) == 0 {
		return
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, x := range notes {
		for _, l := range n.byName[x.channel] {
			select {
			case l.queue <- x.payload:
			default:
				l.missed.Do(func() {
					n.log.Warn("store: a listener is too slow and misses notes", "channel", x.channel)
				})
			}
		}
	}
}

// subscribe starts a listener. cancel may be called by the listener itself.
func (n *notifier) subscribe(channel string, fn func(string)) (cancel func(), err error) {
	l := &earshot{fn: fn, queue: make(chan string, noteBacklog), gone: make(chan struct{})}
	l.leave = sync.OnceFunc(func() { close(l.gone) })
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, ErrClosed
	}
	n.byName[channel] = append(n.byName[channel], l)
	n.wg.Go(l.run)
	return func() { n.drop(channel, l) }, nil
}

func (n *notifier) drop(channel string, l *earshot) {
	l.leave()
	n.mu.Lock()
	defer n.mu.Unlock()
	left := slices.DeleteFunc(n.byName[channel], func(x *earshot) bool { return x == l })
	if n.byName[channel] = left; len(left) == 0 {
		delete(n.byName, channel)
	}
}

func (l *earshot) run() {
	for {
		select {
		case <-l.gone:
			return
		default:
		}
		select {
		case <-l.gone:
			return
		case payload := <-l.queue:
			l.fn(payload)
		}
	}
}

// close ends all listeners and waits until their functions have returned.
func (n *notifier) close() {
	n.mu.Lock()
	n.closed = true
	for _, all := range n.byName {
		for _, l := range all {
			l.leave()
		}
	}
	n.mu.Unlock()
	n.wg.Wait()
}
