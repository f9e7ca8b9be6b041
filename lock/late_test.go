package lock_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// An answer that was longer on its way than the lease lives is no lease: somebody else may have the name.
func TestAnswerAfterTheEnd(t *testing.T) {
	proxy := storetest.NewProxy(t, storetest.Redis(t))
	s, err := store.Open(t.Context(), proxy.URL(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	l := locker(t, s, lock.Options{TTL: 100 * time.Millisecond})
	give(t, get(t, l, "n", lock.Request{})) // it is connected, and subscribed

	proxy.Set(storetest.Weather{Delay: 150 * time.Millisecond})
	if lease, err := l.TryAcquire(within(t, 20*time.Second), "n", lock.Request{}); !errors.Is(err, lock.ErrLost) {
		t.Errorf("TryAcquire: %v, %v", lease, err)
	}
	if lease, err := l.Acquire(within(t, time.Second), "n", lock.Request{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Acquire: %v, %v", lease, err)
	}
	proxy.Set(storetest.Weather{})
	give(t, get(t, l, "n", lock.Request{TTL: 10 * time.Second}))
}
