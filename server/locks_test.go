package server_test

import (
	"net/url"
	"testing"

	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// eachLocks runs a test on a server on every engine.
func eachLocks(t *testing.T, fn func(t *testing.T, r *rig)) {
	t.Run("mem", func(t *testing.T) { fn(t, newRig(t)) })
	t.Run("file", func(t *testing.T) { fn(t, rigOn(t, "file:"+t.TempDir(), sqldbtest.SQLite(t))) })
	t.Run("redis", func(t *testing.T) { fn(t, rigOn(t, storetest.Redis(t).URL(), sqldbtest.SQLite(t))) })
}

func leases(name string) string { return "/v1/locks/" + url.PathEscape(name) + "/leases" }

func (r *rig) acquire(name, wish string, header ...string) (l server.Lease) {
	r.Helper()
	r.want(201, "POST", leases(name), wish, &l, header...)
	return l
}

func (r *rig) refused(status int, kind, method, path, body string, header ...string) {
	r.Helper()
	a := r.do(method, path, body, header...)
	if got, _ := a.problem(); a.status != status || got != kind {
		r.Errorf("%s %s: want %d %s, got %s", method, path, status, kind, a)
	}
}

// A lease's life over HTTP: acquired, renewed, released; whoever is late is told.
func TestLease(t *testing.T) {
	eachLocks(t, func(t *testing.T, r *rig) {
		const name = "seat 14/B ü"
		a := r.acquire(name, `{"ttl_ms":20000}`)
		if a.Lock != name || a.Token <= 0 || a.ExpiresIn <= 10_000 || a.ExpiresIn > 20_000 {
			t.Errorf("%+v", a)
		}
		path := leases(name) + "/" + a.Lease
		r.refused(409, "lock-held", "POST", leases(name), ``)
		r.refused(409, "lock-held", "POST", leases(name), `{"wait_ms":20}`)
		r.refused(409, "lock-mode", "POST", leases(name), `{"permits":1,"of":3}`)
		var again server.Lease
		r.want(200, "PUT", path, `{"ttl_ms":50000}`, &again)
		if again.Lease != a.Lease || again.Token != a.Token || again.ExpiresIn <= 20_000 || again.ExpiresIn > 50_000 {
			t.Errorf("renewed: %+v", again)
		}
		r.want(204, "DELETE", path, "", nil)
		r.refused(409, "lease-lost", "DELETE", path, "")
		r.refused(409, "lease-lost", "PUT", path, `{"ttl_ms":50000}`)
		b := r.acquire(name, ``)
		if b.Token <= a.Token {
			t.Errorf("token %d after %d", b.Token, a.Token)
		}
		r.refused(409, "lease-lost", "DELETE", path, "")
		r.refused(409, "lease-lost", "PUT", path, `{"ttl_ms":50000}`)
		r.want(204, "DELETE", leases(name)+"/"+b.Lease, "", nil)
	})
}

// A repeat with the same key is the same lease, and what is late is not taken for what is new.
func TestAcquireAgain(t *testing.T) {
	eachLocks(t, func(t *testing.T, r *rig) {
		const key, wish = "Idempotency-Key", `{"ttl_ms":60000}`
		a := r.acquire("again", wish, key, `"k1"`)
		if b := r.acquire("again", wish, key, `k1`); b.Lease != a.Lease || b.Token != a.Token {
			t.Errorf("%+v, then %+v", a, b)
		}
		r.refused(409, "lock-held", "POST", leases("again"), wish, key, `"k2"`)
		r.refused(409, "lock-held", "POST", leases("again"), `{"shared":true}`, key, `"k1"`) // another wish
		r.want(204, "DELETE", leases("again")+"/"+a.Lease, "", nil)
		c := r.acquire("again", wish, key, `"k1"`)
		if c.Token <= a.Token || c.Lease == a.Lease {
			t.Errorf("after the release %+v, then %+v", a, c)
		}
		r.refused(409, "lease-lost", "PUT", leases("again")+"/"+a.Lease, `{"ttl_ms":50000}`)
		r.refused(409, "lease-lost", "DELETE", leases("again")+"/"+a.Lease, "")
		r.want(204, "DELETE", leases("again")+"/"+c.Lease, "", nil)
	})
}

func TestLockModes(t *testing.T) {
	r := newRig(t)
	one, two := r.acquire("rw", `{"shared":true}`), r.acquire("rw", `{"shared":true}`)
	if one.Lease == two.Lease || two.Token <= one.Token {
		t.Errorf("%+v, %+v", one, two)
	}
	r.refused(409, "lock-held", "POST", leases("rw"), ``)
	r.acquire("pool", `{"permits":2,"of":3}`)
	r.acquire("pool", `{"permits":1,"of":3}`)
	r.refused(409, "lock-held", "POST", leases("pool"), `{"permits":1,"of":3}`)
	r.refused(409, "lock-mode", "POST", leases("pool"), `{"permits":1,"of":4}`)
}
