package lock_test

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

var claims = []struct {
	name, why string
	run       func(t *testing.T, s *store.Store)
}{
	{"life", "a holder elsewhere renews and releases through any process", claimLife},
	{"again", "a repeat gets what the lost answer was about, and nothing older than that", claimAgain},
	{"nobody renews", "a holder elsewhere that has died costs its lease's time", claimExpires},
	{"place is kept", "a wait in several requests is one wait", claimKeepsPlace},
	{"gone when served", "a repeat finds its lease, whatever the first request's end did", claimGoneWhenServed},
	{"over when served", "who is told that others hold it leaves no lease behind", claimOverWhenServed},
	{"gone for good", "who will not come back leaves nothing", claimGoneForGood},
	{"several", "all or none, also while the later ones take long", claimSeveral},
	{"all", "people see who holds what", allNames},
}

func TestClaims(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		for _, c := range claims {
			t.Run(c.name, func(t *testing.T) { c.run(t, s) })
		}
	})
}

func claim(t *testing.T, l *lock.Locker, name, owner string, ttl time.Duration) lock.Claim {
	t.Helper()
	c, err := l.Claim(within(t, 20*time.Second), name, lock.ClaimRequest{Owner: owner, Wait: 20 * time.Second, Request: lock.Request{TTL: ttl}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func claimLife(t *testing.T, s *store.Store) {
	l, other := locker(t, s, lock.Options{}), locker(t, s, lock.Options{})
	ctx := within(t, 20*time.Second)
	a := claim(t, l, "claim", "ada/1", 20*time.Second)
	if a.Owner != "ada/1" || a.Token <= 0 || a.Left <= 10*time.Second || a.Left > 20*time.Second {
		t.Errorf("%+v", a)
	}
	if _, err := other.Claim(ctx, "claim", lock.ClaimRequest{Owner: "bob/1"}); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("a second owner: %v", err)
	}
	b, err := other.Renew(ctx, a, 40*time.Second)
	if err != nil || b.Token != a.Token || b.Left <= 20*time.Second || b.Left > 40*time.Second {
		t.Errorf("renewed: %+v, %v", b, err)
	}
	stranger := a
	stranger.Owner = "bob/1"
	_, err = other.Renew(ctx, stranger, time.Minute)
	if bad := other.Release(ctx, stranger); !errors.Is(err, lock.ErrLost) || !errors.Is(bad, lock.ErrLost) {
		t.Errorf("somebody else: %v, %v", err, bad)
	}
	if err := other.Release(ctx, a); err != nil {
		t.Error(err)
	}
	_, err = l.Renew(ctx, a, time.Minute)
	if bad := l.Release(ctx, a); !errors.Is(err, lock.ErrLost) || !errors.Is(bad, lock.ErrLost) {
		t.Errorf("after the release: %v, %v", err, bad)
	}
	give(t, get(t, l, "claim", lock.Request{}))
}

func claimAgain(t *testing.T, s *store.Store) {
	l, other := locker(t, s, lock.Options{}), locker(t, s, lock.Options{})
	ctx := within(t, 20*time.Second)
	a := claim(t, l, "claim again", "ada/1", time.Minute)
	if b := claim(t, other, "claim again", "ada/1", time.Minute); b.Token != a.Token {
		t.Errorf("%+v, then %+v", a, b)
	}
	if err := l.Release(ctx, a); err != nil {
		t.Fatal(err)
	}
	c := claim(t, l, "claim again", "ada/1", time.Minute)
	if c.Token <= a.Token {
		t.Errorf("token %d after %d", c.Token, a.Token)
	}
	_, err := l.Renew(ctx, a, time.Minute)
	if bad := l.Release(ctx, a); !errors.Is(err, lock.ErrLost) || !errors.Is(bad, lock.ErrLost) {
		t.Errorf("the older lease of the same owner: %v, %v", err, bad)
	}
	if err := l.Release(ctx, c); err != nil {
		t.Error(err)
	}
}

func claimExpires(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	a := claim(t, l, "claim expires", "ada/1", 300*time.Millisecond)
	b := claim(t, l, "claim expires", "bob/1", time.Minute)
	if b.Token <= a.Token {
		t.Errorf("token %d after %d", b.Token, a.Token)
	}
	if _, err := l.Renew(within(t, 20*time.Second), a, time.Minute); !errors.Is(err, lock.ErrLost) {
		t.Errorf("late: %v", err)
	}
}

func claimKeepsPlace(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	first := get(t, l, "keep", lock.Request{})
	patient := lock.ClaimRequest{Owner: "ada/1", Again: true, KeepPlace: true, Wait: 20 * time.Millisecond}
	for range 3 {
		if _, err := l.Claim(within(t, 20*time.Second), "keep", patient); !errors.Is(err, lock.ErrKeepPlace) {
			t.Errorf("the wait ended with %v", err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(lock.ErrKeepPlace)
	if _, err := l.Claim(ctx, "keep", patient); !errors.Is(err, lock.ErrKeepPlace) {
		t.Errorf("the context's end: %v", err)
	}
	patient.Wait = 20 * time.Second
	later := make(chan int64)
	go func() {
		lease, err := l.Acquire(within(t, 20*time.Second), "keep", lock.Request{})
		if err != nil {
			t.Error(err)
			close(later)
			return
		}
		defer func() { _ = lease.Release(context.Background()) }()
		later <- lease.Token()
	}()
	until(t, "two wait", func() bool { return waiters(t, l, "keep") == 2 })
	served := make(chan lock.Claim)
	go func() {
		c, err := l.Claim(within(t, 20*time.Second), "keep", patient)
		if err != nil {
			t.Error(err)
		}
		served <- c
	}()
	info, err := l.Info(within(t, 20*time.Second), "keep")
	if err != nil || len(info.Line) != 2 || info.Line[0].Owner != "ada/1" {
		t.Errorf("the line: %+v, %v", info.Line, err)
	}
	give(t, first)
	c := <-served
	if err := l.Release(within(t, 20*time.Second), c); err != nil {
		t.Error(err)
	}
	if token := <-later; token <= c.Token {
		t.Errorf("who came later got token %d, who kept the place %d", token, c.Token)
	}
}

// A request ends as its owner is served. Whatever came first, its repeat holds the lease, and what the
// first one cleans up behind itself does not take it away.
func claimGoneWhenServed(t *testing.T, s *store.Store) {
	other := locker(t, s, lock.Options{})
	for range 20 {
		l, err := lock.New(s, lock.Options{})
		if err != nil {
			t.Fatal(err)
		}
		first := get(t, other, "served", lock.Request{})
		ctx, cancel := context.WithCancel(t.Context())
		request := lock.ClaimRequest{Owner: "ada/" + rand.Text(), Again: true, Wait: 20 * time.Second}
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, _ = l.Claim(ctx, "served", request)
		}()
		until(t, "it waits", func() bool { return waiters(t, other, "served") == 1 })
		go cancel()
		give(t, first)
		c, err := other.Claim(within(t, 20*time.Second), "served", request)
		if err != nil {
			t.Fatal(err)
		}
		<-gone
		if err := l.Close(within(t, 20*time.Second)); err != nil { // waits for what it cleans up
			t.Fatal(err)
		}
		if c, err = other.Renew(within(t, 20*time.Second), c, time.Minute); err != nil {
			t.Fatalf("the repeat's lease: %v", err)
		}
		if err := other.Release(within(t, 20*time.Second), c); err != nil {
			t.Fatal(err)
		}
	}
}

func claimOverWhenServed(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	got := 0
	for i := range 40 {
		first := get(t, l, "over", lock.Request{})
		wait := 10*time.Millisecond + time.Duration(i)*50*time.Microsecond
		released := make(chan error)
		time.AfterFunc(wait, func() { released <- first.Release(context.Background()) })
		c, err := l.Claim(within(t, 20*time.Second), "over", lock.ClaimRequest{Owner: "ada/" + rand.Text(), Again: true, Wait: 11 * time.Millisecond})
		if bad := <-released; bad != nil {
			t.Fatal(bad)
		}
		switch {
		case err == nil:
			got++
			if err := l.Release(within(t, 20*time.Second), c); err != nil {
				t.Fatal(err)
			}
		case !errors.Is(err, lock.ErrHeld):
			t.Fatal(err)
		}
		lease, err := l.TryAcquire(within(t, 20*time.Second), "over", lock.Request{})
		if err != nil {
			t.Fatalf("round %d: somebody has it still: %v", i, err)
		}
		give(t, lease)
	}
	t.Logf("%d of 40 got it", got)
}

func claimGoneForGood(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	first := get(t, l, "gone", lock.Request{})
	for _, again := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := l.Claim(ctx, "gone", lock.ClaimRequest{Owner: "ada/1", Again: again, Wait: 20 * time.Second})
			ended <- err
		}()
		until(t, "it waits", func() bool { return waiters(t, l, "gone") == 1 })
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
		until(t, "it has left", func() bool { return waiters(t, l, "gone") == 0 })
	}
	give(t, first)
	give(t, get(t, l, "gone", lock.Request{}))
}

func claimSeveral(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	request := lock.ClaimRequest{Owner: "ada/1", Wait: 20 * time.Second, Request: lock.Request{TTL: 300 * time.Millisecond}}
	names := []string{"many-c", "many-a", "many-b"}
	held := get(t, l, "many-c", lock.Request{})
	if _, err := l.ClaimAll(within(t, 20*time.Second), names, lock.ClaimRequest{Owner: "bob/1"}); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("one of three is held: %v", err)
	}
	got := make(chan []lock.Claim)
	go func() {
		all, err := l.ClaimAll(within(t, 20*time.Second), names, request)
		if err != nil {
			t.Error(err)
		}
		got <- all
	}()
	until(t, "it waits for the last", func() bool { return waiters(t, l, "many-c") == 1 })
	time.Sleep(time.Second) // three lives of the first two
	give(t, held)
	all := <-got
	if len(all) != 3 {
		t.Fatal("no claims")
	}
	for i, c := range all {
		if c.Name != names[i] || c.Token <= 0 || c.Left <= 0 {
			t.Errorf("claim %d: %+v", i, c)
		}
	}
	// Nobody renews them any more: somebody else gets them after one life.
	for _, name := range names {
		give(t, get(t, l, name, lock.Request{}))
	}
	if err := l.Release(within(t, 20*time.Second), all[0]); !errors.Is(err, lock.ErrLost) {
		t.Errorf("release of what has ended: %v", err)
	}
}

func allNames(t *testing.T, s *store.Store) {
	l := locker(t, s, lock.Options{})
	var leases []*lock.Lease
	for _, name := range []string{"all-2", "all-1", "all-3", "all-4"} {
		leases = append(leases, get(t, l, name, lock.Request{}))
	}
	give(t, leases[3])
	names := func(limit int) (names []string, more bool) {
		infos, more, err := l.All(within(t, 60*time.Second), limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range infos {
			if strings.HasPrefix(i.Name, "all-") {
				names = append(names, i.Name)
			}
		}
		return names, more
	}
	if all, more := names(10_000); !slices.Equal(all, []string{"all-1", "all-2", "all-3"}) || more {
		t.Errorf("%v, more: %v", all, more)
	}
	if some, more := names(1); len(some) > 1 || !more {
		t.Errorf("the first: %v, more: %v", some, more)
	}
	for _, lease := range leases[:3] {
		give(t, lease)
	}
}

func TestBadClaims(t *testing.T) {
	s, err := store.Open(t.Context(), "mem:", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := locker(t, s, lock.Options{})
	ctx := t.Context()
	try := func(name, owner string, r lock.Request) error {
		_, err := l.Claim(ctx, name, lock.ClaimRequest{Owner: owner, Request: r})
		return err
	}
	renew := func(c lock.Claim, ttl time.Duration) error {
		_, err := l.Renew(ctx, c, ttl)
		return err
	}
	wait := func(c lock.ClaimRequest) error {
		_, err := l.Claim(ctx, "a", c)
		return err
	}
	all := func(names ...string) error {
		_, err := l.ClaimAll(ctx, names, lock.ClaimRequest{Owner: "o"})
		return err
	}
	for i, c := range []struct {
		err   error
		field string
	}{
		{try("", "o", lock.Request{}), "name"}, {try("a", "", lock.Request{}), "owner"}, {try("a", "o o", lock.Request{}), "owner"},
		{try("a", "o\n", lock.Request{}), "owner"}, {try("a", strings.Repeat("o", 201), lock.Request{}), "owner"},
		{try("a", "o", lock.Request{TTL: 1}), "ttl"}, {try("a", "o", lock.Request{TTL: time.Minute, MaxHold: time.Second}), "max_hold"},
		{try("a", "o", lock.Request{Permits: 2, Of: 1}), "permits"}, {try("a", "o", lock.Request{Of: -1}), "of"},
		{try("a", "o", lock.Request{Shared: true, Permits: 1, Of: 1}), "shared"}, {try("a", "o", lock.Request{Who: "\x01"}), "who"},
		{renew(lock.Claim{Name: "a", Owner: "o"}, time.Second), "token"}, {renew(lock.Claim{Name: "a", Owner: "o", Token: 1}, 1), "ttl"},
		{renew(lock.Claim{Name: "a", Owner: "o", Token: 1}, 0), "ttl"},
		{renew(lock.Claim{Name: "", Owner: "o", Token: 1}, time.Second), "name"}, {renew(lock.Claim{Name: "a", Token: 1}, time.Second), "owner"},
		{l.Release(ctx, lock.Claim{Name: "a", Owner: "o"}), "token"}, {l.Release(ctx, lock.Claim{Owner: "o", Token: 1}), "name"},
		{wait(lock.ClaimRequest{Owner: "o", Wait: -1}), "wait"}, {wait(lock.ClaimRequest{Owner: "o", KeepPlace: true}), "wait"},
		{all(), "names"}, {all("a", "a"), "names"}, {all(""), "name"},
	} {
		var bad *lock.InvalidError
		if !errors.As(c.err, &bad) || bad.Field != c.field || !errors.Is(c.err, lock.ErrInvalid) {
			t.Errorf("case %d: want %s, got %v", i, c.field, c.err)
		}
	}
	if list, err := l.List(ctx, 100); err != nil || len(list) > 0 {
		t.Errorf("something was written: %v, %v", list, err)
	}
}
