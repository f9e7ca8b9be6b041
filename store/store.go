// Package store makes decisions on shared state: atomic steps on a few keys, by an engine
// inside the process or by any Valkey or Redis.
//
// A decision (Decide) is a function of the keys of one slot, its arguments and the engine's
// clock. It has two bodies, a Go function for the embedded engine and a Lua script or a single
// command for a remote one, which must decide alike; package storetest compares them.
//
// Promised, on every engine: a decision is atomic, all of it or nothing; decisions on one slot
// happen one after the other; ErrUnavailable means that nothing was written. What an
// acknowledged decision is worth depends on the engine's class, which Class tells:
//
//	A  file:DIR                      it is on disk; kill -9 and power loss do not take it back,
//	                                 and nobody was told what could still be lost
//	B  one Valkey or Redis with appendfsync always, stated by ?class=b
//	                                 it survives kill -9 of the engine; there is no failover
//	C  every other Valkey or Redis, and mem:
//	                                 the last seconds may vanish at a fault
//
// Not promised: that a call whose error is ErrOutcomeUnknown did or did not happen. Decisions
// are therefore idempotent or err on the safe side; each says which. A decision that panics
// writes nothing.
//
// The embedded engine's clock (Tx.Now) never goes back, also over a restart. After an error of
// its disk a file: store refuses decisions (ErrUnavailable) until it has opened its files again,
// which it tries at least every 2 s.
//
// Cost: on the embedded engine some microseconds and, for file:, a share of one fsync with
// all others that arrive meanwhile; on a remote engine one round trip, pipelined with others.
package store

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

// Options of Open. The zero value works.
type Options struct {
	// Timeout is the longest that a call waits for the engine. Default 2s.
	Timeout time.Duration
	// MaxBytes bounds an embedded engine, on disk or in memory; beyond it decisions that
	// write get ErrFull. It is measured about once a second. Default 8 GiB, mem: 1 GiB.
	MaxBytes int64
	// MinFree is the free space that file: leaves on its file system: below it decisions
	// that write get ErrFull, before the engine itself would fail. Default 256 MiB.
	MinFree int64
	// Logger gets what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
	// Observe is called after every decision with its name, how long it took, waiting
	// included, and what became of it. It must be quick, and safe for concurrent use.
	Observe func(decision string, took time.Duration, err error)
	// Clock replaces the wall clock of an embedded engine. For tests, and to replay what was recorded.
	Clock func() time.Time
}

func (o Options) withDefaults() (Options, error) {
	if o.Timeout < 0 || o.MaxBytes < 0 || o.MinFree < 0 {
		return o, fmt.Errorf("%w: a negative option", ErrConfig)
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	if o.MinFree == 0 {
		o.MinFree = 256 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return o, nil
}

// Class says what an acknowledged decision is worth; see the package comment.
type Class int

// The classes, from the strongest.
const (
	ClassA Class = iota + 1
	ClassB
	ClassC
)

func (c Class) String() string {
	switch c {
	case ClassA:
		return "A"
	case ClassB:
		return "B"
	case ClassC:
		return "C"
	}
	return "?"
}

// engine is what a Store stands on: embedded or remote.
type engine interface {
	// do makes one decision. An embedded engine calls c.run and returns no reply; a remote
	// one returns the elements of its reply.
	do(ctx context.Context, d *decisionCore, c call) (reply []any, err error)
	ping(ctx context.Context) error
	// subscribe calls fn for what is published to channel from the moment it returns.
	subscribe(ctx context.Context, channel string, fn func(payload string)) (cancel func(), err error)
	capabilities() Capabilities
	class() Class
	close() error
}

// Store is an engine that decides. It is safe for concurrent use.
type Store struct {
	engine  engine
	observe func(decision string, took time.Duration, err error)
	waits   waits
}

// Open opens the engine that rawURL names:
//
//	mem:                    in memory, gone with the process
//	file:DIR                durable, in DIR; one process at a time (ErrLocked)
//	redis://host:port/db    a Valkey or Redis; rediss:// with TLS, unix:PATH by a socket;
//	                        ?prefix=P puts P before every key and channel, ?class=b states class B
//	holdfast://host:port,host:port               holdfast nodes: nothing that was acknowledged is lost
//	redis-cluster://host:port,host:port          a cluster, by some of its nodes
//	redis-sentinel://host:port,host:port/master  the master that sentinels know by that name;
//	                        ?sentinel_username=U and ?sentinel_password=P are for the sentinels themselves
//	rediss-cluster://, rediss-sentinel://        the same with TLS, to every server and sentinel
//
// It fails with ErrConfig, ErrLocked, ErrNewer or ErrUnavailable.
func Open(ctx context.Context, rawURL string, opts Options) (*Store, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := CheckURL(rawURL); err != nil {
		return nil, err
	}
	var e engine
	switch scheme, _, _ := strings.Cut(rawURL, ":"); scheme {
	case "mem":
		e, err = openMem(opts)
	case "file":
		e, err = openFile(rawURL, opts)
	default:
		e, err = openRemote(ctx, rawURL, opts)
	}
	if err != nil {
		return nil, err
	}
	return &Store{engine: e, observe: opts.Observe}, nil
}

// CheckURL says whether Open understands rawURL. It asks nobody and makes nothing. Error: ErrConfig.
func CheckURL(rawURL string) (err error) {
	scheme, rest, found := strings.Cut(rawURL, ":")
	if !found {
		scheme = "" // a name alone
	}
	switch scheme {
	case "mem":
		if rest != "" {
			err = fmt.Errorf("%w: mem: takes nothing behind the colon", ErrConfig)
		}
	case "file":
		_, err = fileDir(rawURL)
	case "redis", "rediss", "unix", schemeCluster, schemeSentinel, schemeNodes, schemeClusterTLS, schemeSentinelTLS:
		_, err = parseRemote(rawURL)
	default:
		err = fmt.Errorf("%w: a store's URL begins with mem:, file:, unix:, redis://, rediss://, redis-cluster://, redis-sentinel:// (rediss-… with TLS) or holdfast://", ErrConfig)
	}
	return err
}

// Close ends the store. Decisions that are running finish, later ones get ErrClosed. A second
// Close waits for the first and returns its error.
func (s *Store) Close() error { return s.engine.close() }

// Class says what an acknowledged decision is worth on this engine.
func (s *Store) Class() Class { return s.engine.class() }

// Capabilities says what this engine can do beyond decisions, as found when it was opened.
func (s *Store) Capabilities() Capabilities { return s.engine.capabilities() }

// Ping tells whether the engine answers. It writes nothing. Errors: ErrUnavailable, ErrClosed.
func (s *Store) Ping(ctx context.Context) error { return s.engine.ping(ctx) }

// Subscribe calls fn with every payload that a decision publishes (Tx.Notify, PUBLISH) to
// channel after Subscribe returned. It is a hint and not a log: what is published while a
// connection is cut, or faster than fn takes it, is lost. cancel ends it.
func (s *Store) Subscribe(ctx context.Context, channel string, fn func(payload string)) (cancel func(), err error) {
	return s.engine.subscribe(ctx, channel, fn)
}
