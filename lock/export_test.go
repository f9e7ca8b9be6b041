package lock

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
)

// Abandon leases a name for a process that dies at once.
func Abandon(t *testing.T, s *store.Store, name string, ttl time.Duration) (owner string) {
	t.Helper()
	at := placeOf(name)
	owner = rand.Text()
	out, err := acquire.Do(context.Background(), s, acquireIn{Mark: at.mark, Held: at.held, Queue: at.queue, Waiters: at.waiters,
		Names: at.names, Name: name, Owner: owner, Weight: everything, Of: everything, TTL: ttl.Microseconds(),
		Hold: time.Hour.Microseconds(), Channel: "nobody", MaxWaiters: 1, Who: "dead"})
	if err != nil || out.Outcome != isLeased {
		t.Fatal(out, err)
	}
	return owner
}
