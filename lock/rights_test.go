package lock_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// The rights that package store names for an engine's user are enough for locks, also where others wait.
func TestDocumentedRights(t *testing.T) {
	source, err := os.ReadFile("../store/remote.go")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?s)ACL SETUSER app.*?\n//\n`).FindString(string(source))
	if block == "" {
		t.Fatal("package store names no rights any more")
	}
	server := storetest.Redis(t)
	server.Admin(t, strings.ReplaceAll(strings.Join(strings.Fields(strings.ReplaceAll(block, "//", "")), " "), ">SECRET", ">secret"))
	s, err := store.Open(t.Context(), strings.Replace(server.URL(), "unix:", "unix://app:secret@", 1)+"?prefix=app:", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := locker(t, s, lock.Options{TTL: time.Second})
	first := get(t, l, "n", lock.Request{})
	next := make(chan *lock.Lease, 1)
	go func() {
		defer close(next)
		if lease, err := l.Acquire(within(t, 20*time.Second), "n", lock.Request{}); err == nil {
			next <- lease
		} else {
			t.Error(err)
		}
	}()
	until(t, "one waits", func() bool { return t.Failed() || waiters(t, l, "n") == 1 })
	if info, err := l.Info(t.Context(), "n"); err != nil || len(info.Line) != 1 {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := l.List(t.Context(), 10); err != nil {
		t.Error(err)
	}
	give(t, first)
	if lease := <-next; lease != nil {
		give(t, lease)
	}
}
