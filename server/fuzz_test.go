package server_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/server"
)

// Whatever body comes, the answer is a success or a problem of the client's, never a 5xx; and
// what was refused has written nothing.
func FuzzBodies(f *testing.F) {
	paths := []string{"/v1/sales", "/v1/sales/drop/holds", "/v1/payments"}
	for i, body := range []string{
		`{"name":"n","stock":1,"price":1,"currency":"EUR"}`, `{"buyer":"ada"}`,
		`{"hold":"h","buyer":"b","amount":1,"currency":"EUR"}`, `{`, `[]`, `null`, `{"buyer":null}`,
		`{"opens_at":"x"}`, `{"stock":1e400}`, `{"buyer":"a","buyer":"b"}`, "\x00", `{"name":"\ud800"}`,
	} {
		f.Add(uint8(i), body)
	}
	r := newRig(f)
	r.sale("drop", 1_000_000)
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		r := *r
		r.TB = t
		before := r.rows()
		req := httptest.NewRequest("POST", paths[int(which)%len(paths)], strings.NewReader(body))
		req.Host = "localhost"
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", fmt.Sprint(rand.Uint64()))
		w := httptest.NewRecorder()
		r.server.Handler().ServeHTTP(w, req)
		switch {
		case w.Code >= 500:
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		case w.Code >= 400 && w.Header().Get("Content-Type") != "application/problem+json":
			t.Errorf("%q: %d is no problem: %s", body, w.Code, w.Body)
		case w.Code >= 400 && r.rows() != before:
			t.Errorf("%q: refused with %d, and wrote", body, w.Code)
		}
	})
}

// Whatever name, lease and wish come, the answer is a success or a problem of the client's, and what was
// acquired can be released by what was answered.
func FuzzLocks(f *testing.F) {
	f.Add("a", "1-x", `{"ttl_ms":1000}`)
	f.Add("a/b", "-1-x", `{"shared":true}`)
	f.Add("..", "9223372036854775808-x", `{"permits":1,"of":2,"wait_ms":10,"who":"\u0001"}`)
	f.Add("\xff", "1-", `null`)
	f.Add("ü\x00", "", `{"keep_place":true}`)
	r := newRig(f)
	ask := func(t *testing.T, method, path, body string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, path, strings.NewReader(body)).WithContext(t.Context())
		req.Host = "localhost"
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		r.server.Handler().ServeHTTP(w, req)
		if w.Code >= 500 || w.Code >= 400 && w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s %q: %d %s", method, path, body, w.Code, w.Body)
		}
		return w
	}
	f.Fuzz(func(t *testing.T, name, lease, body string) {
		path := leases(name)
		ask(t, "PUT", path+"/"+url.PathEscape(lease), body)
		ask(t, "DELETE", path+"/"+url.PathEscape(lease), "")
		w := ask(t, "POST", path, body)
		if w.Code != 201 {
			return
		}
		var l server.Lease
		if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || l.Lock != name {
			t.Fatalf("%q: %v %s", name, err, w.Body)
		}
		if w := ask(t, "DELETE", path+"/"+url.PathEscape(l.Lease), ""); w.Code != 204 {
			t.Errorf("%q: %d %s", name, w.Code, w.Body)
		}
	})
}
