package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/valkey-io/valkey-go"
)

// heartbeat is how often an idle connection is pinged. With Options.Timeout on top it bounds
// how long a connection that is dead without saying so stays in use.
const heartbeat = time.Second

// openRemote connects once and asks whether decisions can be made.
func openRemote(ctx context.Context, rawURL string, opts Options) (*remote, error) {
	at, err := parseRemote(rawURL)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	r := &remote{at: at, timeout: opts.Timeout, log: opts.Logger, places: make(chan struct{}, inFlight)}
	r.link = newLink(r.knock, opts.Timeout, opts.Logger)
	if r.client, err = valkey.NewClient(r.clientOptions()); err != nil {
		if r.client != nil {
			r.client.Close()
		}
		return nil, atOpen(err)
	}
	r.hears = newSubscriber(r.client, opts.Timeout)
	ctx, cancel := context.WithTimeout(ctx, opts.Timeout)
	defer cancel()
	if err := r.probe(ctx); err != nil {
		_ = r.close() // always nil; err is what matters
		return nil, err
	}
	if !r.at.cluster() {
		r.link.arm() // of a cluster one node may be down, and calls to the others pass
	}
	return r, nil
}

func (r *remote) clientOptions() valkey.ClientOption {
	o := valkey.ClientOption{
		InitAddress:       []string{r.at.host},
		ForceSingleClient: true,
		DialCtxFn:         r.dial,
		Username:          r.at.user,
		Password:          r.at.password,
		SelectDB:          r.at.db,
		ClientSetInfo:     valkey.DisableClientSetInfo, // a right fewer
		DisableRetry:      true,                        // what is sent twice is for the caller to decide
		DisableCache:      true,
		PipelineMultiplex: -1,   // one connection: an answer shows that all before it were answered
		AlwaysPipelining:  true, // a cut is seen at once, and one call's deadline ends that call only
		ConnWriteTimeout:  r.timeout,
	}
	o.Dialer.Timeout = r.timeout
	o.Dialer.KeepAlive = heartbeat
	if len(r.at.nodes) > 0 {
		o.InitAddress = r.at.nodes[:1] // dial knows them all
	}
	r.at.severalOptions(&o)
	return o
}

// knock is the link's ping. Its error is quoted to every caller, so it explains itself.
func (r *remote) knock(ctx context.Context) error {
	err := r.client.Do(ctx, r.client.B().Ping().Build()).Error()
	if answer, ok := valkey.IsValkeyErr(err); ok {
		return errors.New(explained(answer.Error()))
	}
	return err
}

func (r *remote) probe(ctx context.Context) error {
	class := r.probeClass
	if r.at.cluster() {
		class = r.probeNodes
	}
	for _, ask := range []func(context.Context) error{r.probeMode, r.probeMark, r.probeScripts, class, r.probeEviction} {
		if err := ask(ctx); err != nil {
			return err
		}
	}
	r.can.Tracking = r.words(ctx, "CLIENT", "TRACKING", "OFF").Error() == nil
	return nil
}

// probeMode refuses what cannot serve every key.
func (r *remote) probeMode(ctx context.Context) error {
	hello, err := r.words(ctx, "HELLO").AsMap()
	if refusedCommand(err) {
		return nil // before version 6: no ACLs either, but decisions work
	}
	if err != nil {
		return atOpen(err)
	}
	want, hint := "standalone", "a cluster's URL begins with redis-cluster://, that of sentinels with redis-sentinel://"
	if r.at.cluster() {
		want, hint = "cluster", "the URL of one engine begins with redis://"
	}
	mode := hello["mode"]
	if text, err := mode.ToString(); err == nil && text != want {
		return fmt.Errorf("%w: the engine is a %s node; %s", ErrConfig, text, hint)
	}
	return nil
}

var probeScript = Decide("store.probe", Lua("return {redis.call('TIME')[1]}"),
	func(*Tx, struct {
		Key string `store:"key"`
	}) struct{ Seconds int64 } {
		return struct{ Seconds int64 }{}
	})

// probeScripts runs a script by the way that decisions take, on a key with the prefix.
func (r *remote) probeScripts(ctx context.Context) error {
	err := r.eval(ctx, probeScript.core, []string{r.at.prefix + "{probe}"}, nil).Error()
	if err = atOpen(err); errors.Is(err, ErrConfig) {
		return fmt.Errorf("the engine does not run Lua scripts for this user and prefix (EVAL, EVALSHA, TIME): %w", err)
	}
	return err
}

// probeClass looks for what contradicts a stated class B. An engine that does not let itself
// be asked is believed.
func (r *remote) probeClass(ctx context.Context) error {
	if r.at.class != ClassB {
		return nil
	}
	for name, want := range map[string]string{"appendonly": "yes", "appendfsync": "always"} {
		if got := r.setting(ctx, name); got != "" && got != want {
			return fmt.Errorf("%w: class=b is stated, but the engine has %s %s", ErrConfig, name, got)
		}
	}
	if info := r.info(ctx, "persistence"); info["aof_enabled"] == "0" {
		return fmt.Errorf("%w: class=b is stated, but the engine has no append-only file", ErrConfig)
	}
	return nil
}

func (r *remote) probeEviction(ctx context.Context) error {
	policy := r.info(ctx, "memory")["maxmemory_policy"]
	if policy == "" {
		policy = r.setting(ctx, "maxmemory-policy")
	}
	if policy == "" {
		r.log.Warn("store: cannot see whether the engine evicts keys; allow INFO")
		return nil
	}
	r.can.Evicts = policy != "noeviction"
	return nil
}

// setting is one value of the engine's configuration, empty where it may not be seen.
func (r *remote) setting(ctx context.Context, name string) string {
	got, err := r.words(ctx, "CONFIG", "GET", name).AsStrMap()
	if err != nil {
		return ""
	}
	return got[name]
}

// info is a section of INFO, empty where it may not be seen.
func (r *remote) info(ctx context.Context, section string) map[string]string {
	text, err := r.words(ctx, "INFO", section).ToString()
	if err != nil {
		return nil
	}
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			all[name] = value
		}
	}
	return all
}

func (r *remote) words(ctx context.Context, words ...string) valkey.ValkeyResult {
	return r.client.Do(ctx, r.client.B().Arbitrary(words...).Build())
}
