package drill

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// Of a 503 it is noted whether it says what is gone and when to come back.
func TestClientNotesRefusals(t *testing.T) {
	for _, c := range []struct {
		problem, retry string
		want           string
		silent         int
	}{
		{"busy", "1", "answer 503 busy", 0},
		{"busy", "", "answer 503 busy", 1},
		{"", "1", "answer 503 ok", 0},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if c.retry != "" {
				w.Header().Set("Retry-After", c.retry)
			}
			if c.problem != "" {
				w.Header().Set("Content-Type", "application/problem+json")
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"type":"` + problemPrefix + c.problem + `"}`))
		}))
		rec := newRecord()
		client := newClient(func() string { return server.URL }, "", 1, rec)
		client.ask(t.Context(), &keyed{Kind: kindHold, Path: "/"}, false)
		client.close()
		server.Close()
		if rec.counts[c.want] != 1 || rec.counts[didNotSay] != c.silent || rec.counts[didWait] != 0 {
			t.Errorf("%+v: %v", c, rec.counts)
		}
	}
}
