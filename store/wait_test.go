package store_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

type wakeIn struct {
	Key     string `store:"key"`
	Channel string `store:"channel"`
	Name    string
}
type wakeOut struct{ N int64 }

// wakeUp counts, and wakes who waits for a name.
var wakeUp = store.Decide("test.wake", store.Lua(`
	redis.call('PUBLISH', ARGV[1], ARGV[2])
	return {redis.call('INCR', KEYS[1])}`),
	func(tx *store.Tx, in wakeIn) wakeOut {
		tx.Notify(in.Channel, in.Name)
		return wakeOut{tx.Incr(in.Key, 1)}
	})

func wake(t *testing.T, s *store.Store, name string) {
	t.Helper()
	if _, err := wakeUp.Do(t.Context(), s, wakeIn{"{" + name + "}", store.WakeChannel(name), name}); err != nil {
		t.Fatal(err)
	}
}

// woken waits for a waiter's wake-up.
func woken(t *testing.T, w *store.Waiter) {
	t.Helper()
	select {
	case <-w.C:
	case <-time.After(5 * time.Second):
		t.Fatal("not woken within 5 s")
	}
}

func TestAwait(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		await := func(name string) *store.Waiter {
			w, err := s.Await(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			return w
		}
		ada, ada2, bob := await("ada"), await("ada"), await("bob")
		defer bob.Stop()
		defer ada2.Stop()
		wake(t, s, "ada")
		woken(t, ada)
		woken(t, ada2)
		ada.Stop()
		wake(t, s, "bob")
		woken(t, bob)
		wake(t, s, "ada")
		woken(t, ada2)
		for _, w := range []*store.Waiter{ada, ada2, bob} {
			select {
			case <-w.C:
				t.Error("woken for somebody else, or after Stop")
			default:
			}
		}
		ada.Stop() // twice does nothing
	})
}

// Ten thousand wait, each for a name of its own; every wake-up reaches its waiter.
func TestManyWaiters(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		const many = 10_000
		waiters := make([]*store.Waiter, many)
		goroutines := runtime.NumGoroutine()
		began := time.Now()
		for i := range waiters {
			var err error
			if waiters[i], err = s.Await(t.Context(), fmt.Sprint("w", i)); err != nil {
				t.Fatal(err)
			}
			defer waiters[i].Stop()
		}
		t.Logf("%d wait after %s", many, time.Since(began).Round(time.Millisecond))
		if more := runtime.NumGoroutine() - goroutines; more > 200 {
			t.Errorf("%d goroutines for %d waiters", more, many)
		}
		began = time.Now()
		var all sync.WaitGroup
		const wakers = 8
		for k := range wakers {
			all.Go(func() {
				for i := k; i < many; i += wakers {
					name := fmt.Sprint("w", i)
					_, err := wakeUp.Do(context.Background(), s, wakeIn{"{" + name + "}", store.WakeChannel(name), name})
					if err != nil {
						t.Error(err)
						return
					}
					// No more than an engine may hold back for one listener are on their way.
					select {
					case <-waiters[i].C:
					case <-time.After(5 * time.Second):
						t.Errorf("%s was not woken within 5 s", name)
						return
					}
				}
			})
		}
		all.Wait()
		t.Logf("%d wake-ups in %s", many, time.Since(began).Round(time.Millisecond))
	})
}

// Waiters are woken again when the engine has come back.
func TestAwaitAfterAFault(t *testing.T) {
	server := storetest.Redis(t)
	s := open(t, server.URL(), store.Options{})
	w, err := s.Await(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	server.Restart()
	within(t, 10*time.Second, "it is woken", func() bool {
		_, _ = wakeUp.Do(t.Context(), s, wakeIn{"{ada}", store.WakeChannel("ada"), "ada"})
		select {
		case <-w.C:
			return true
		default:
			return false
		}
	})
}

// Who begins to wait while the engine is silent is told so in time, however many others do the same.
func TestAwaitWhileTheEngineIsSilent(t *testing.T) {
	server := storetest.Redis(t)
	const timeout = 200 * time.Millisecond
	s := open(t, server.URL(), store.Options{Timeout: timeout})
	if err := syscall.Kill(server.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 20 { // as good as each on a channel of its own
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), timeout/2)
			defer cancel()
			began := time.Now()
			w, err := s.Await(ctx, fmt.Sprint("w", i))
			if err == nil {
				w.Stop()
			}
			if took := time.Since(began); !errors.Is(err, store.ErrUnavailable) || took > time.Second {
				t.Errorf("%v after %s", err, took.Round(time.Millisecond))
			}
		})
	}
	all.Wait()
}
