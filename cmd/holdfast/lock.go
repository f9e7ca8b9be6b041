package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/store"
)

type lockCmd struct {
	Run   lockRunCmd   `cmd:"" help:"Run a command while holding a lock."`
	Ls    lockLsCmd    `cmd:"" help:"Show who holds locks, since when, and who waits."`
	Break lockBreakCmd `cmd:"" help:"Take a lock away from those who hold it."`
}

// lockAt is where locks are.
type lockAt struct {
	Server string `help:"The server's address; http://127.0.0.1:8080 if there is no --store." env:"HOLDFAST_SERVER"`
	Key    string `help:"API key for the server; better in the environment than here." env:"HOLDFAST_KEY"`
	Store  string `help:"Ask this store, without a server: redis://…, holdfast://… and the others of 'holdfast serve' that are processes of their own." env:"HOLDFAST_LOCK_STORE"`
}

// holder is a lock that this process holds. Its context ends when that is over.
type holder interface {
	Token() int64
	Context() context.Context
	Release(ctx context.Context) error
}

// want is how a lock is wanted. A negative wait has no end.
type want struct {
	lock.Request
	wait time.Duration
}

// locks are those of a server, or of a store.
type locks interface {
	acquire(ctx context.Context, name string, w want) (holder, error)
	list(ctx context.Context, limit int) (server.LockList, error)
	look(ctx context.Context, name string) (server.LockState, error)
	breakUp(ctx context.Context, name string, token int64, reason string) (tokens []int64, err error)
	close() error
}

func (c *lockAt) open(e *env) (locks, error) {
	if c.Store == "" {
		if c.Server == "" {
			c.Server = "http://127.0.0.1:8080"
		}
		if u, err := url.Parse(c.Server); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, errors.New("--server must be http://HOST:PORT or https://HOST")
		}
		return newLocksOfServer(strings.TrimSuffix(c.Server, "/"), c.Key, e.logger), nil
	}
	switch scheme, _, _ := strings.Cut(c.Store, ":"); {
	case c.Server != "":
		return nil, errors.New("give --server or --store, not both")
	case scheme == "file" || scheme == "mem":
		return nil, fmt.Errorf("a %s: store belongs to the process that has it open: give --server", scheme)
	}
	s, err := store.Open(e.ctx, c.Store, store.Options{Logger: e.logger})
	if err != nil {
		return nil, err
	}
	l, err := lock.New(s, lock.Options{Logger: e.logger})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &locksOfStore{s, l}, nil
}

// locksOfStore are those of a store that others use too.
type locksOfStore struct {
	store  *store.Store
	locker *lock.Locker
}

func (l *locksOfStore) acquire(ctx context.Context, name string, w want) (holder, error) {
	if w.wait == 0 {
		return held(l.locker.TryAcquire(ctx, name, w.Request))
	}
	if w.wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, w.wait, lock.ErrHeld)
		defer cancel()
	}
	return held(l.locker.Acquire(ctx, name, w.Request))
}

// held makes no lease a nil holder.
func held(l *lock.Lease, err error) (holder, error) {
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (l *locksOfStore) list(ctx context.Context, limit int) (list server.LockList, err error) {
	all, more, err := l.locker.All(ctx, limit)
	list = server.LockList{Locks: []server.LockState{}, More: more}
	for _, i := range all {
		list.Locks = append(list.Locks, server.LockStateOf(i))
	}
	return list, err
}

func (l *locksOfStore) look(ctx context.Context, name string) (server.LockState, error) {
	i, err := l.locker.Info(ctx, name)
	return server.LockStateOf(i), err
}

func (l *locksOfStore) breakUp(ctx context.Context, name string, token int64, reason string) (tokens []int64, err error) {
	return server.BreakLock(ctx, l.locker, name, token, reason)
}

func (l *locksOfStore) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	return errors.Join(l.locker.Close(ctx), l.store.Close())
}

type lockLsCmd struct {
	lockAt
	asJSON
	Name  string `arg:"" optional:"" help:"Show this lock and who waits for it; otherwise all that are held."`
	Limit int    `help:"Show at most so many locks." default:"100"`
}

// Run shows them.
func (c *lockLsCmd) Run(e *env) error { return outcome(c.run(e)) }

func (c *lockLsCmd) run(e *env) (err error) {
	l, err := c.open(e)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	ctx, cancel := context.WithTimeout(e.ctx, askTime)
	defer cancel()
	if c.Name == "" {
		list, err := l.list(ctx, c.Limit)
		if err != nil {
			return err
		}
		return c.show(e, list, list.Locks, list.More)
	}
	state, err := l.look(ctx, c.Name)
	if err != nil {
		return err
	}
	if err := c.show(e, state, []server.LockState{state}, false); err != nil || c.JSON {
		return err
	}
	for i, w := range state.Line {
		fmt.Fprintf(e.out, "waits %d  %s  %s%s\n", i+1, w.Mode, shown(w.Who), map[bool]string{false: "  (not heard of)"}[w.Alive])
	}
	return nil
}

func (c *lockLsCmd) show(e *env, v any, all []server.LockState, more bool) error {
	if c.JSON {
		return c.print(e.out, v)
	}
	w := tabwriter.NewWriter(e.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "LOCK\tMODE\tWHO\tKEY\tTOKEN\tSINCE\tHELD\tEXPIRES IN\tWAITING")
	for _, s := range all {
		for _, h := range s.Holders {
			mode := h.Mode
			if h.Of > 0 {
				mode = fmt.Sprintf("%d of %d", h.Permits, h.Of)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%d\n", shown(s.Lock), mode, shown(h.Who), h.Caller, h.Token, h.Since.Format(time.RFC3339),
				s.Now.Sub(h.Since).Round(time.Second), h.Expires.Sub(s.Now).Round(100*time.Millisecond), s.Waiting)
		}
		if len(s.Holders) == 0 {
			fmt.Fprintf(w, "%s\tnobody\t\t\t\t\t\t\t%d\n", shown(s.Lock), s.Waiting)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if more {
		fmt.Fprintln(e.errs, "there are more: see --limit")
	}
	return nil
}

// shown is a text of others without what a terminal would obey.
func shown(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

type lockBreakCmd struct {
	lockAt
	asJSON
	Name   string `arg:"" help:"The lock."`
	Reason string `help:"Why; it is logged." required:""`
	Token  int64  `help:"Only the lease with this token, as 'lock ls' shows it; otherwise all of them."`
}

// Help is what to know before.
func (*lockBreakCmd) Help() string {
	return "Whoever held it learns it at its next renewal, and may go on working until then: what keeps its late writes out is a guard " +
		"that compares fencing tokens at what it works on. Through a server it needs an operator's API key."
}

// Run breaks it.
func (c *lockBreakCmd) Run(e *env) error { return outcome(c.run(e)) }

func (c *lockBreakCmd) run(e *env) (err error) {
	l, err := c.open(e)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	ctx, cancel := context.WithTimeout(e.ctx, askTime)
	defer cancel()
	tokens, err := l.breakUp(ctx, c.Name, c.Token, c.Reason)
	if err != nil {
		return err
	}
	if len(tokens) == 0 {
		return fmt.Errorf("%s: no such lease: nothing was broken", shown(c.Name))
	}
	return c.say(e.out, server.Broken{Tokens: tokens}, "broken: %s, token %v", shown(c.Name), strings.Trim(fmt.Sprint(tokens), "[]"))
}

const (
	askTime     = 20 * time.Second // for looking and breaking
	releaseTime = 5 * time.Second  // then the lease ends by itself
)
