package server

import (
	"fmt"
	"testing"
	"time"
)

// Who is refused most is found among very many, and what is said of him is not too little.
func TestTopRefused(t *testing.T) {
	top := topRefused{since: time.Now()}
	at := time.Now()
	for i := range 10_000 {
		top.add(refusedBy{"d", "r", fmt.Sprint("one of many ", i)}, at)
		if i%20 == 0 {
			top.add(refusedBy{"d", "r", "often"}, at)
		}
	}
	if len(top.now) > maxRefused {
		t.Errorf("%d keys are kept", len(top.now))
	}
	_, keys := top.top(3)
	if len(keys) != 3 || keys[0].Key != "often" || keys[0].Refused < 500 || keys[0].Refused-keys[0].Error > 500 {
		t.Errorf("%+v", keys)
	}
	top.add(refusedBy{"d", "r", "later"}, at.Add(refusedSpan))
	if len(top.now) != 1 || len(top.last) == 0 {
		t.Errorf("%d now, %d before", len(top.now), len(top.last))
	}
	top.add(refusedBy{"d", "r", "later"}, at.Add(4*refusedSpan))
	if len(top.now) != 1 || top.last != nil {
		t.Errorf("%d now, %d before", len(top.now), len(top.last))
	}
}
