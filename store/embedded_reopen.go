package store

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A failed disk is tried again after reopenFirst, then after twice that, and so on.
const (
	reopenFirst = 100 * time.Millisecond
	reopenMost  = 2 * time.Second
)

// reopening is an embedded engine on a disk that can fail. An engine that has ended is closed
// and opened again, as soon as the disk lets it: what a crash in that moment would have left is
// there. What was synced before is on disk; what was not has been answered with
// ErrOutcomeUnknown, and Pebble writes it anew, to files of its own and synced, before the
// first decision sees it, so that a page which only the cache has is not taken for durable.
type reopening struct {
	opts Options
	open func() (*embedded, error)

	mu        sync.RWMutex
	engine    *embedded
	followers map[*follower]struct{}

	ctx    context.Context // done when nothing is to be opened any more
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// follower is a subscription that outlives engines.
type follower struct {
	channel string
	fn      func(string)
	cancel  func()
}

func openReopening(opts Options, open func() (*embedded, error)) (*reopening, error) {
	e, err := open()
	if err != nil {
		return nil, err
	}
	r := &reopening{opts: opts, open: open, engine: e, followers: map[*follower]struct{}{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.wg.Go(r.mind)
	return r, nil
}

// mind replaces engines that have ended.
func (r *reopening) mind() {
	for {
		e := r.current()
		select {
		case <-e.ended.done:
		case <-r.ctx.Done():
			return
		}
		r.opts.Logger.Error("store: the engine has ended; it is opened again when the disk allows", "error", e.close())
		if !r.replace() {
			return
		}
	}
}

// replace tries until there is an engine again, or none is wanted any more.
func (r *reopening) replace() bool {
	var last string
	for wait := reopenFirst; ; wait = min(2*wait, reopenMost) {
		select {
		case <-time.After(wait):
		case <-r.ctx.Done():
			return false
		}
		e, err := r.open()
		if err == nil {
			if err = r.use(e); err == nil {
				r.opts.Logger.Info("store: the engine has been opened again")
				return true
			}
			err = errors.Join(err, e.close())
		}
		if err.Error() != last {
			last = err.Error()
			r.opts.Logger.Warn("store: the engine cannot be opened yet", "error", err)
		}
	}
}

// use puts an engine in the place of the one that has ended, with all who listened to that.
func (r *reopening) use(e *embedded) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.followers {
		cancel, err := e.subscribe(r.ctx, l.channel, l.fn)
		if err != nil {
			return err
		}
		l.cancel = cancel
	}
	r.engine = e
	return nil
}

func (r *reopening) current() *embedded {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.engine
}

func (r *reopening) do(ctx context.Context, d *decisionCore, c call) ([]any, error) {
	return r.current().do(ctx, d, c)
}

func (r *reopening) ping(ctx context.Context) error { return r.current().ping(ctx) }

func (r *reopening) subscribe(ctx context.Context, channel string, fn func(string)) (func(), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cancel, err := r.engine.subscribe(ctx, channel, fn)
	if err != nil {
		return nil, err
	}
	l := &follower{channel, fn, cancel}
	r.followers[l] = struct{}{}
	return func() {
		r.mu.Lock()
		delete(r.followers, l)
		cancel := l.cancel
		r.mu.Unlock()
		cancel()
	}, nil
}

func (r *reopening) capabilities() Capabilities { return r.current().capabilities() }

func (r *reopening) class() Class { return r.current().class() }

func (r *reopening) close() error {
	r.cancel()
	r.wg.Wait()
	return r.current().close()
}
