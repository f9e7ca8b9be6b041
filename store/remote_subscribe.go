package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/valkey-io/valkey-go"
)

// subscriber holds the one connection on which a Store hears all its channels. The connection
// is made by the first Subscribe; after a cut a goroutine makes it again and subscribes to
// everything that is still listened to.
type subscriber struct {
	client  valkey.Client
	timeout time.Duration
	ctx     context.Context // done when the store is closed
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	turn chan struct{} // one place: who holds it speaks on conn
	conn *subConn      // nil before the first Subscribe and after a cut
	tidy chan struct{} // one place: a channel has lost its last listener

	mu       sync.RWMutex
	channels map[string][]*listener
}

type listener struct{ fn func(payload string) }

// subConn is a connection with what has to be undone.
type subConn struct {
	valkey.DedicatedClient
	release func()
	cut     <-chan error
	names   map[string]bool // subscribed to on this connection
}

func newSubscriber(client valkey.Client, timeout time.Duration) *subscriber {
	b := &subscriber{
		client: client, timeout: timeout,
		turn: make(chan struct{}, 1), tidy: make(chan struct{}, 1),
		channels: map[string][]*listener{},
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// subscribe returns when the engine has confirmed, so that what is published from then on is
// heard. fn runs on the connection's reader.
func (b *subscriber) subscribe(ctx context.Context, name string, fn func(string)) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: subscribe: %w", ErrUnavailable, ctx.Err())
	}
	if b.ctx.Err() != nil {
		return nil, ErrClosed
	}
	l := &listener{fn}
	b.add(name, l)
	if err := b.connect(ctx); err != nil {
		b.drop(name, l)
		return nil, harmless(err)
	}
	return sync.OnceFunc(func() { b.drop(name, l) }), nil
}

func (b *subscriber) add(name string, l *listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.channels[name] = append(b.channels[name], l)
}

// drop never waits for the engine, so a listener may cancel itself.
func (b *subscriber) drop(name string, l *listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(b.channels[name]), func(x *listener) bool { return x == l })
	if len(left) > 0 {
		b.channels[name] = left
		return
	}
	delete(b.channels, name)
	select {
	case b.tidy <- struct{}{}:
	default:
	}
}

// connect sees to it that there is a connection and that it is subscribed to everything that
// has a listener. The caller has the turn.
func (b *subscriber) connect(ctx context.Context) error {
	if b.conn == nil {
		conn, release := b.client.Dedicate()
		c := &subConn{DedicatedClient: conn, release: release, names: map[string]bool{}}
		c.cut = conn.SetPubSubHooks(valkey.PubSubHooks{OnMessage: b.hear})
		b.conn = c
		if err := b.settle(ctx); err != nil {
			b.hangUp()
			return err
		}
		b.wg.Go(func() { b.keep(c) })
		return nil
	}
	return b.settle(ctx)
}

// settle subscribes and unsubscribes until the connection hears what is listened to.
func (b *subscriber) settle(ctx context.Context) error {
	b.mu.RLock()
	var missing, idle []string
	for name := range b.channels {
		if !b.conn.names[name] {
			missing = append(missing, name)
		}
	}
	for name := range b.conn.names {
		if b.channels[name] == nil {
			idle = append(idle, name)
		}
	}
	b.mu.RUnlock()
	for _, name := range missing {
		if err := b.conn.Do(ctx, b.conn.B().Subscribe().Channel(name).Build()).Error(); err != nil {
			return err
		}
		b.conn.names[name] = true
	}
	for _, name := range idle {
		if err := b.conn.Do(ctx, b.conn.B().Unsubscribe().Channel(name).Build()).Error(); err != nil {
			return err
		}
		delete(b.conn.names, name)
	}
	return nil
}

func (b *subscriber) hear(m valkey.PubSubMessage) {
	b.mu.RLock()
	listeners := b.channels[m.Channel] // replaced, never changed in place
	b.mu.RUnlock()
	for _, l := range listeners {
		l.fn(m.Message)
	}
}

// keep lives as long as one connection does; if that is cut, until there is the next one.
func (b *subscriber) keep(c *subConn) {
	for {
		select {
		case err := <-c.cut:
			if err != nil || b.ctx.Err() == nil {
				b.restore(c)
			}
			return
		case <-b.tidy:
			_ = b.withTurn(func(ctx context.Context) error {
				if b.conn != c || b.settle(ctx) != nil {
					c.Close() // which is a cut
				}
				return nil
			}) // an error means that b is being closed
		case <-b.ctx.Done():
			return
		}
	}
}

// restore replaces a connection that was cut, with growing pauses, unless a Subscribe has
// done so already.
func (b *subscriber) restore(old *subConn) {
	for pause := firstRetry; b.ctx.Err() == nil; pause = min(2*pause, lastRetry) {
		err := b.withTurn(func(ctx context.Context) error {
			if b.conn == old {
				b.hangUp()
			}
			return b.connect(ctx)
		})
		if err == nil {
			return
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-b.ctx.Done():
		}
	}
}

// withTurn runs fn with the turn and a deadline.
func (b *subscriber) withTurn(fn func(context.Context) error) error {
	b.turn <- struct{}{} // whoever has it gives it back within a deadline of its own
	defer func() { <-b.turn }()
	ctx, cancel := context.WithTimeout(b.ctx, b.timeout)
	defer cancel()
	return fn(ctx)
}

// hangUp gives the connection up. The caller has the turn.
func (b *subscriber) hangUp() {
	if b.conn != nil {
		b.conn.Close()
		b.conn.release()
		b.conn = nil
	}
}

func (b *subscriber) close() {
	b.cancel()
	b.turn <- struct{}{}
	b.hangUp()
	<-b.turn
	b.wg.Wait()
}
