package server_test

import (
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"testing"
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
