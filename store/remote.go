// # Remote engines
//
// A URL names one Valkey or Redis, alone or the primary of replicas; a cluster; or sentinels.
// Nothing is written that a decision does not write, and no CONFIG is needed. Users
// who share an engine give each a ?prefix=: it is put before every key and every channel,
// leaves the hash tags as they are, and so may not contain braces.
//
// A decision is one EVALSHA; when the engine has forgotten the script it is sent again with
// EVAL. There is one connection for decisions, pipelined, and one for subscriptions. Every
// call has a deadline. While the engine does not answer, calls fail at once with
// ErrUnavailable and a goroutine tries until it answers again, at most half a second apart.
//
// A cluster has one connection to each node, and a node that is down fails the calls for its
// slots only; one that is silent holds their places meanwhile, of which all nodes share 512. MOVED and ASK are followed, TRYAGAIN is tried again; each says that nothing has
// happened. Nothing else is sent twice. What is published reaches all nodes (plain PUBLISH,
// not sharded), so one subscription hears it. With sentinels the master is whom they name.
//
// ErrUnavailable is returned for what was never sent, and for what the engine refused as a
// whole: it is loading, is a replica, is busy with somebody's script, cannot save, or the
// user lacks a right. Sent and not answered is ErrOutcomeUnknown. A script is atomic but not
// rolled back: what it wrote before an error inside of it stays, so scripts look before they
// write.
//
// The rights that an engine's user needs, for the prefix "app:" (one line):
//
//	ACL SETUSER app on >SECRET resetkeys ~app:* resetchannels &app:* -@all
//	  +ping +info +select +eval +evalsha +subscribe +unsubscribe +publish +time
//	  +type +exists +del +pexpireat +persist +pttl
//	  +get +set +incrby
//	  +hget +hset +hincrby +hdel +hlen +hgetall
//	  +zadd +zscore +zrem +zcard +zcount +zrangebyscore +zremrangebyscore
//
// With sentinels the user also needs +role, on a cluster +cluster|slots (and +asking while
// slots move). Without +info it cannot be seen whether the engine evicts keys. Class B is checked where
// CONFIG GET (+config|get) or INFO is allowed, and taken as stated where neither is.
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"
)

// inFlight bounds the calls on the connection. Half of the client's ring of 1,024 places, in
// which a call that was given up keeps its place: a full ring would block without a deadline.
const inFlight = 512

// remote is an engine on the other end of a connection.
type remote struct {
	at      address
	timeout time.Duration
	log     *slog.Logger
	can     Capabilities
	client  valkey.Client
	link    *link
	hears   *subscriber
	places  chan struct{} // inFlight of them
	turn    atomic.Uint64 // which of several nodes is dialed first

	mu      sync.RWMutex // orders begin against close
	closed  bool
	calls   sync.WaitGroup
	closing sync.Once
}

// do makes one decision.
func (r *remote) do(ctx context.Context, d *decisionCore, c call) ([]any, error) {
	if _, err := oneSlot(c.keys); err != nil {
		return nil, err
	}
	keys, args := make([]string, len(c.keys)), c.args()
	for i, key := range c.keys {
		keys[i] = r.at.prefix + key
	}
	if _, err := oneSlot(keys); err != nil { // they shared one by chance and not by a tag
		return nil, err
	}
	for _, i := range c.channels {
		args[i] = r.at.prefix + args[i]
	}
	reply, err := r.call(ctx, func(ctx context.Context) valkey.ValkeyResult {
		if d.command != nil {
			return r.client.Do(ctx, r.client.B().Arbitrary(d.command...).Keys(keys...).Args(args...).Build())
		}
		return r.eval(ctx, d, keys, args)
	})
	if err != nil {
		return nil, err
	}
	if d.command != nil {
		return []any{reply}, nil
	}
	list, ok := reply.([]any)
	if !ok {
		return nil, fmt.Errorf("%w: the script's reply is %T, not an array", ErrOutcomeUnknown, reply)
	}
	return list, nil
}

// eval runs a script by its hash; where the engine does not know it, nothing has happened and
// the whole script follows.
func (r *remote) eval(ctx context.Context, d *decisionCore, keys, args []string) valkey.ValkeyResult {
	n := int64(len(keys))
	result := r.client.Do(ctx, r.client.B().Evalsha().Sha1(d.sha1).Numkeys(n).Key(keys...).Arg(args...).Build())
	if answer, ok := valkey.IsValkeyErr(result.Error()); ok && answer.IsNoScript() {
		result = r.client.Do(ctx, r.client.B().Eval().Script(d.lua).Numkeys(n).Key(keys...).Arg(args...).Build())
	}
	return result
}

// call sends something and says what became of it. send is not called when the engine is
// known to be down.
func (r *remote) call(ctx context.Context, send func(context.Context) valkey.ValkeyResult) (any, error) {
	if !r.begin() {
		return nil, ErrClosed
	}
	defer r.calls.Done()
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	select {
	case r.places <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %d calls are waiting for the engine: %w", ErrUnavailable, inFlight, ctx.Err())
	}
	defer func() { <-r.places }()
	if err := r.link.enter(ctx); err != nil {
		return nil, err
	}
	result := onTheMove(ctx, send)
	err := result.Error()
	if unanswered(err) {
		r.link.giveUp()
		r.link.suspect(err) // before the place is free: whoever gets it waits for the verdict
	}
	if err := outcome(err); err != nil {
		return nil, err
	}
	return plain(result)
}

// plain turns a reply into strings, integers and lists of them.
func plain(result valkey.ValkeyResult) (any, error) {
	x, err := result.ToAny()
	if valkey.IsValkeyNil(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	if f, ok := x.(float64); ok && f == math.Trunc(f) && math.Abs(f) <= MaxInt {
		return int64(f), nil
	}
	return x, nil
}

func (r *remote) begin() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return false
	}
	r.calls.Add(1)
	return true
}

func (r *remote) ping(ctx context.Context) error {
	var answer error
	_, err := r.call(ctx, func(ctx context.Context) valkey.ValkeyResult {
		result := r.client.Do(ctx, r.client.B().Ping().Build())
		answer = result.Error()
		return result
	})
	if errors.Is(err, ErrOutcomeUnknown) {
		return harmless(answer)
	}
	return err
}

func (r *remote) subscribe(ctx context.Context, channel string, fn func(string)) (func(), error) {
	if !r.begin() {
		return nil, ErrClosed
	}
	defer r.calls.Done()
	return r.hears.subscribe(ctx, r.at.prefix+channel, fn)
}

func (r *remote) capabilities() Capabilities { return r.can }

func (r *remote) class() Class { return r.at.class }

// close waits for calls, which have deadlines, because a connection that one of them opens
// after the client was closed would stay open.
func (r *remote) close() error {
	r.closing.Do(func() {
		r.mu.Lock()
		r.closed = true
		r.mu.Unlock()
		r.calls.Wait()
		r.hears.close()
		r.link.close()
		r.client.Close()
	})
	return nil
}

// dial is how the client connects.
func (r *remote) dial(ctx context.Context, addr string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	if r.link.ctx.Err() != nil {
		return nil, &dialError{ErrClosed}
	}
	if r.at.host != "" {
		addr = r.at.host // which the client has never changed
	}
	var conn net.Conn
	var err error
	if len(r.at.nodes) > 0 {
		conn, err = r.dialNodes(ctx, d)
	} else {
		conn, err = d.DialContext(ctx, r.at.network, addr)
	}
	if err != nil {
		return nil, &dialError{err}
	}
	if r.at.tls != nil {
		config := r.at.tls
		if config.ServerName == "" { // one of several, each under its own name
			config = config.Clone()
			config.ServerName, _, _ = net.SplitHostPort(addr) // which was dialed, so it is one
		}
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close() // it was never used
			return nil, &dialError{err}
		}
		conn = secure
	}
	return r.link.watch(conn), nil
}
