package server_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// BenchmarkSoldOut: what the server adds to net/http when there is nothing left.
func BenchmarkSoldOut(b *testing.B) {
	r := newRig(b)
	r.sale("s", 1)
	r.hold("s", "first")
	h := r.server.Handler()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		who := strconv.Itoa(i)
		req := httptest.NewRequest(http.MethodPost, "/v1/sales/s/holds", strings.NewReader(`{"buyer":"`+who+`"}`))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", `"`+who+`"`)
		req.RemoteAddr, req.Host = "127.0.0.1:1", "localhost"
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, req); w.Code != http.StatusConflict {
			b.Fatal(w.Code, w.Body)
		}
	}
}
