package store

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Each decision is told once, with what became of it.
func TestObserve(t *testing.T) {
	type told struct {
		name string
		err  error
	}
	var all []told
	s := openURL(t, "mem:", Options{Observe: func(name string, took time.Duration, err error) {
		if took <= 0 || took > time.Minute {
			t.Errorf("%s took %s", name, took)
		}
		all = append(all, told{name, err})
	}})
	if _, err := incr.Do(context.Background(), s, keyIn{"k"}); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := incr.Do(gone, s, keyIn{"k"}); err == nil {
		t.Fatal("a decision for somebody who has gone")
	}
	if len(all) != 2 || all[0] != (told{"test.incr", nil}) || !errors.Is(all[1].err, ErrUnavailable) {
		t.Errorf("told %+v", all)
	}
}
