package storetest

import (
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/store"
)

func TestClusterMovesAndFailsOver(t *testing.T) {
	c := Cluster(t)
	const key = "{moved}:key"
	slot := store.Slot(key)
	from := c.Shard(slot)
	to := (from + 1) % shards
	c.Master(from).Admin(t, "SET "+key+" 1")
	c.MoveSlot(slot, from, to)
	if got := c.Master(to).Admin(t, "GET "+key); got != "1" {
		t.Errorf("after the move: %s", got)
	}
	if _, err := c.Master(from).ask("GET " + key); err == nil || !strings.Contains(err.Error(), "MOVED") {
		t.Errorf("the old owner says %v", err)
	}
	c.Failover(to)
	if got := c.Master(to).Admin(t, "GET "+key); got != "1" {
		t.Errorf("after the failover: %s", got)
	}
}

func TestSentinelsFailOver(t *testing.T) {
	w := Sentinel(t)
	w.Master().Admin(t, "SET k 1")
	w.Failover()
	if got := w.Master().Admin(t, "GET k"); got != "1" {
		t.Errorf("after the failover: %s", got)
	}
}
