package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

func TestConformanceOnCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six servers")
	}
	conform(t, open(t, storetest.Cluster(t).URL()+"?prefix=p:", store.Options{}))
}

func TestConformanceOnSentinel(t *testing.T) {
	if testing.Short() {
		t.Skip("starts five servers")
	}
	conform(t, open(t, storetest.Sentinel(t).URL()+"?prefix=p:", store.Options{}))
}

// steady asks for a decision each 5 ms, whatever has become of those before, until it is ended.
// It remembers what each was told and the longest wait.
type steady struct {
	ledger
	longest time.Duration
	end     func()
}

func startSteady(t *testing.T, s *store.Store) *steady {
	t.Helper()
	r := &steady{ledger: ledger{told: map[string]error{}}}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				wg.Go(func() { r.one(s, fmt.Sprint(i)) })
			}
		}
	})
	r.end = sync.OnceFunc(func() { stop(); wg.Wait() })
	t.Cleanup(r.end)
	return r
}

// one writes a field that is never used again, so it is there or it is not.
func (r *steady) one(s *store.Store, id string) {
	began := time.Now()
	_, err := op.Do(context.Background(), s, opIn{Key: "{k}", Other: "{k}2", Op: "hset", Args: []string{id, "1"}})
	waited := time.Since(began)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told[id], r.longest = err, max(r.longest, waited)
}

func (r *steady) acknowledged(t *testing.T, more int, limit time.Duration) {
	t.Helper()
	before := r.count(nil)
	within(t, limit, fmt.Sprintf("%d more are acknowledged", more), func() bool { return r.count(nil) >= before+more })
}

// judge compares what was told with the fields that server has, past what is under test.
// It returns how many that were acknowledged are lost.
func (r *steady) judge(t *testing.T, server interface {
	Admin(testing.TB, string) string
}) int {
	t.Helper()
	there, lost := map[string]bool{}, 0
	for _, id := range strings.Fields(strings.Trim(server.Admin(t, "HKEYS {k}"), "[]")) {
		there[id] = true
	}
	for id, err := range r.told {
		switch {
		case err == nil && !there[id]:
			lost++
		case errors.Is(err, store.ErrUnavailable) && there[id]:
			t.Errorf("%s was told that nothing was written, and is there: %v", id, err)
		case err != nil && !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrOutcomeUnknown):
			t.Errorf("%s: %v", id, err)
		}
	}
	if r.longest > 2500*time.Millisecond {
		t.Errorf("a call took %s; the timeout is 2s", r.longest)
	}
	t.Logf("%d acknowledged (%d lost), %d unavailable, %d unknown, the longest call took %s", r.count(nil), lost,
		r.count(store.ErrUnavailable), r.count(store.ErrOutcomeUnknown), r.longest.Round(time.Millisecond))
	return lost
}

// What is planned loses nothing: a slot that moves, a master that hands over.
func TestClusterPlannedChanges(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six servers")
	}
	c := storetest.Cluster(t)
	s := open(t, c.URL(), store.Options{})
	r := startSteady(t, s)
	r.acknowledged(t, 100, 5*time.Second)
	slot := store.Slot("{k}")
	from := c.Shard(slot)
	to := (from + 1) % 3
	c.MoveSlot(slot, from, to)
	r.acknowledged(t, 100, 5*time.Second)
	if failed := r.count(store.ErrOutcomeUnknown) + r.count(store.ErrUnavailable); failed > 0 {
		t.Errorf("%d calls failed while a slot was moved", failed)
	}
	c.Failover(to)
	r.acknowledged(t, 100, 5*time.Second)
	r.end()
	if lost := r.judge(t, c.Master(to)); lost > 0 {
		t.Errorf("%d were acknowledged and are lost", lost)
	}
}

// A master is killed. The last writes may be lost (class C), and so is nobody's patience.
func TestClusterMasterKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six servers")
	}
	c := storetest.Cluster(t)
	s := open(t, c.URL(), store.Options{})
	heard := make(chan string, 10_000)
	cancel, err := s.Subscribe(t.Context(), "news", func(p string) { heard <- p })
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	r := startSteady(t, s)
	r.acknowledged(t, 100, 5*time.Second)
	shard := c.Shard(store.Slot("{k}"))
	c.Kill(shard)
	r.acknowledged(t, 100, 5*time.Second)
	within(t, 5*time.Second, "it hears", func() bool {
		_, err := do(t, s, "{k}", "notify", "x")
		return err == nil && len(heard) > 0
	})
	r.end()
	if lost := r.judge(t, c.Master(shard)); lost > 200 {
		t.Errorf("%d acknowledged are lost, more than a second's", lost)
	}
}

// A master stops answering: its slots wait no longer than the timeout, the others do not wait.
func TestClusterMasterPaused(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six servers")
	}
	c := storetest.Cluster(t)
	s := open(t, c.URL(), store.Options{Timeout: 300 * time.Millisecond})
	shard := c.Shard(store.Slot("{k}"))
	other := "{a}"
	for i := 0; c.Shard(store.Slot(other)) == shard; i++ {
		other = fmt.Sprintf("{a%d}", i)
	}
	must(t, s, other, "incr", "1")
	must(t, s, "{k}", "hset", "before", "1")
	c.Pause(shard)
	l := &ledger{told: map[string]error{}}
	if longest := crowd(t, s, l, "a", 400, func(int) time.Duration { return time.Minute }); longest > 900*time.Millisecond {
		t.Errorf("a caller waited %s", longest)
	}
	began := time.Now()
	must(t, s, other, "incr", "1")
	if waited := time.Since(began); waited > 100*time.Millisecond {
		t.Errorf("a healthy node took %s", waited)
	}
	c.Resume(shard)
	within(t, 5*time.Second, "it decides again", func() bool { _, err := do(t, s, "{k}", "type"); return err == nil })
}

// SENTINEL FAILOVER lets the old master take writes that the new one never sees. What was
// replicated before it began stays.
func TestSentinelPlannedFailover(t *testing.T) {
	if testing.Short() {
		t.Skip("starts five servers")
	}
	w := storetest.Sentinel(t)
	s := open(t, w.URL(), store.Options{})
	for i := range 100 {
		must(t, s, "{k}", "hset", fmt.Sprint("before", i), "1")
	}
	within(t, 5*time.Second, "the replica has it all", func() bool { return w.Master().Admin(t, "WAIT 1 1000") == "1" })
	r := startSteady(t, s)
	r.acknowledged(t, 100, 5*time.Second)
	w.Failover()
	r.acknowledged(t, 100, 5*time.Second)
	r.end()
	r.judge(t, w.Master())
	if n := strings.Count(w.Master().Admin(t, "HKEYS {k}"), "before"); n != 100 {
		t.Errorf("%d of 100 that were replicated before are there", n)
	}
}

func TestSentinelMasterKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts five servers")
	}
	w := storetest.Sentinel(t)
	s := open(t, w.URL(), store.Options{})
	r := startSteady(t, s)
	r.acknowledged(t, 100, 5*time.Second)
	w.Kill()
	r.acknowledged(t, 100, 5*time.Second)
	r.end()
	if lost := r.judge(t, w.Master()); lost > 200 {
		t.Errorf("%d acknowledged are lost, more than a second's", lost)
	}
}

func TestSeveralRefused(t *testing.T) {
	for url, says := range map[string]string{
		"redis-cluster://":                          "host:port",
		"redis-cluster://a:1,":                      "host:port",
		"redis-cluster://a:1/3":                     "one database",
		"redis-cluster://a:1?db=3":                  "one database",
		"redis-cluster://:secret@a:1,b:x":           "host:port",
		"redis-sentinel://a:1,b:1":                  "name the master",
		"rediss-sentinel://a:1,b:1":                 "name the master",
		"rediss-cluster://a:1/3":                    "one database",
		"redis-cluster://a:1?sentinel_password=x":   "for the URL of sentinels",
		"redis-sentinel://a:1,b:1/main?class=b":     "failover",
		"redis-cluster://" + "a:1,b:1?prefix={tag}": "braces",
	} {
		refused(t, url, store.ErrConfig, says)
	}
	refused(t, "redis-cluster://127.0.0.1:"+freePort(t), store.ErrUnavailable, "refused")
	if !testing.Short() {
		refused(t, storetest.Cluster(t).URL()+"?class=b", store.ErrConfig, "replica")
	}
}

// The rights in the package comment, with the one that each kind of store adds, are enough, and
// without that one the store does not open.
func TestRightsOfSeveral(t *testing.T) {
	if testing.Short() {
		t.Skip("starts eleven servers")
	}
	for right, engines := range map[string]interface {
		URL() string
		Admin(testing.TB, string)
	}{"+cluster|slots": storetest.Cluster(t), "+role": storetest.Sentinel(t)} {
		url := strings.Replace(engines.URL(), "://", "://app:s3cret@", 1) + "?prefix=app:"
		acl := strings.Join(documentedACL(t), " ")
		engines.Admin(t, acl)
		refused(t, url, store.ErrConfig, "NOPERM")
		engines.Admin(t, acl+" "+right)
		conform(t, open(t, url, store.Options{}))
	}
}

// Keys of a slot on the move are followed to where they will be, if the user may say ASKING.
func TestClusterSlotHalfMoved(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six servers")
	}
	c := storetest.Cluster(t)
	acl := strings.Join(documentedACL(t), " ") + " +cluster|slots"
	c.Admin(t, acl)
	s := open(t, strings.Replace(c.URL(), "://", "://app:s3cret@", 1)+"?prefix=app:", store.Options{Timeout: time.Second})
	slot := store.Slot("{n}")
	from := c.Shard(slot)
	to := (from + 1) % 3
	c.BeginMove(slot, from, to)
	if _, err := count.Do(t.Context(), s, countIn{"{n}", 1}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("without the right to ASKING: %v", err)
	}
	c.Admin(t, "ACL SETUSER app +asking")
	for range 5 {
		if _, err := count.Do(t.Context(), s, countIn{"{n}", 1}); err != nil {
			t.Fatal(err)
		}
	}
	if there := c.Master(to).Admin(t, fmt.Sprintf("CLUSTER COUNTKEYSINSLOT %d", slot)); there != "1" {
		t.Errorf("%s keys are where the slot moves to", there)
	}
	// One of two keys is not there yet: the engine cannot say where it will be.
	began := time.Now()
	_, err := op.Do(t.Context(), s, opIn{Key: "{n}", Other: "{n}2", Op: "incr", Args: []string{"1"}})
	refused := errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrOutcomeUnknown) // asked when its time was over
	if waited := time.Since(began); !refused || waited > 1500*time.Millisecond {
		t.Errorf("two keys: %v after %s", err, waited)
	}
	c.MoveSlot(slot, from, to)
	if _, err := op.Do(t.Context(), s, opIn{Key: "{n}", Other: "{n}2", Op: "incr", Args: []string{"1"}}); err != nil {
		t.Errorf("after the move: %v", err)
	}
	if got := c.Master(to).Admin(t, "GET app:{n}"); got != "6" {
		t.Errorf("counted %s, acknowledged 6", got)
	}
}

// Class b is refused when one master of a cluster without replicas is not set so.
func TestClusterClassB(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six servers")
	}
	c := storetest.Cluster(t)
	c.Admin(t, "CONFIG SET appendonly yes")
	c.Admin(t, "CONFIG SET appendfsync always")
	url := c.URL() + "?class=b"
	refused(t, url, store.ErrConfig, "replica")
	c.KillReplicas()
	within(t, 5*time.Second, "the masters have no replicas", func() bool {
		for i := range 3 {
			if !strings.Contains(c.Master(i).Admin(t, "INFO replication"), "connected_slaves:0") {
				return false
			}
		}
		return true
	})
	if got := open(t, url, store.Options{}).Class(); got != store.ClassB {
		t.Errorf("class %s", got)
	}
	c.Master(2).Admin(t, "CONFIG SET appendfsync everysec")
	refused(t, url, store.ErrConfig, "appendfsync everysec")
}

func TestSentinelDatabase(t *testing.T) {
	if testing.Short() {
		t.Skip("starts five servers")
	}
	w := storetest.Sentinel(t)
	must(t, open(t, w.URL()+"?db=3", store.Options{}), "{k}", "incr", "1")
	if info := w.Master().Admin(t, "INFO keyspace"); !strings.Contains(info, "db3:keys=1") {
		t.Errorf("keyspace %s", info)
	}
}
