package store

import (
	"log/slog"
	"slices"
	"sync"
)

// noteBacklog bounds what waits for slow subscribers; what does not fit is dropped.
const noteBacklog = 1024

// notifier calls subscribers on a goroutine of its own, so that none of them holds up a
// decision.
type notifier struct {
	log   *slog.Logger
	queue chan note
	mu    sync.RWMutex
	subs  map[string][]*localListener
}

type localListener struct{ fn func(string) }

func newNotifier(log *slog.Logger) *notifier {
	return &notifier{log: log, queue: make(chan note, noteBacklog), subs: map[string][]*localListener{}}
}

func (n *notifier) publish(notes []note) {
	for _, x := range notes {
		select {
		case n.queue <- x:
		default:
			n.log.Debug("store: a subscriber is slow, a notification is dropped", "channel", x.channel)
		}
	}
}

func (n *notifier) subscribe(channel string, fn func(string)) (cancel func()) {
	l := &localListener{fn}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subs[channel] = append(slices.Clone(n.subs[channel]), l)
	return sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		left := slices.DeleteFunc(slices.Clone(n.subs[channel]), func(x *localListener) bool { return x == l })
		if n.subs[channel] = left; len(left) == 0 {
			delete(n.subs, channel)
		}
	})
}

func (n *notifier) run(closing <-chan struct{}) {
	for {
		select {
		case x := <-n.queue:
			n.mu.RLock()
			all := n.subs[x.channel]
			n.mu.RUnlock()
			for _, l := range all {
				l.fn(x.payload)
			}
		case <-closing:
			return
		}
	}
}
