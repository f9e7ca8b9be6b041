package server

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb"
)

// A storm of refusals leaves some lines, not as many as refusals; what must not happen leaves all
// of them, because its answer says that it is in the log.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	for _, c := range []struct {
		err         error
		least, most int
	}{
		{sqldb.ErrCrowded, 1, 10},
		{sqldb.ErrUnavailable, 1, 10},
		{errors.New("a bug"), 1000, 2000},
	} {
		var log bytes.Buffer
		s := &Server{Config: Config{Logger: slog.New(tagging{slog.NewTextHandler(&log, nil)})}}
		s.metrics = newMetrics(s)
		h := s.observed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(statusOf(s.fail(r.Context(), c.err)))
		}))
		began := time.Now()
		for range 1000 {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/v1/sales/x/holds", nil))
		}
		seconds := int(time.Since(began)/quietFor) + 1
		if n := strings.Count(log.String(), "\n"); n < c.least || n > c.most*seconds {
			t.Errorf("%v: %d lines for 1000 answers", c.err, n)
		}
	}
}

func statusOf(err error) int {
	var status interface{ GetStatus() int }
	if errors.As(err, &status) {
		return status.GetStatus()
	}
	return http.StatusTeapot
}

// The line that comes next says how many did not.
func TestQuietLine(t *testing.T) {
	var q quiet
	now := time.Now()
	got := ""
	for i := range 5 {
		for _, kind := range []string{"a", "b"} {
			if kept, ok := q.line(kind, now.Add(time.Duration(i)*quietFor/3)); ok {
				got += fmt.Sprint(kind, kept, " ")
			}
		}
	}
	if want := "a0 b0 a2 b2 "; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
