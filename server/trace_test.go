package server

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestParseTrace(t *testing.T) {
	want := trace{"4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", true}
	for header, want := range map[string]trace{
		traceparent: want,
		strings.Replace(traceparent, "-01", "-00", 1): {want.id, want.parent, false},
		strings.Replace(traceparent, "-01", "-03", 1): want,
		"cc" + traceparent[2:] + "-what-comes-later":  want,
		"":                           {},
		"00":                         {},
		traceparent + "0":            {},
		traceparent + "-0":           {},
		"ff" + traceparent[2:]:       {},
		strings.ToUpper(traceparent): {},
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": {},
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01": {},
		strings.Replace(traceparent, "-0", "_0", 1):               {},
		strings.Replace(traceparent, "4bf9", "4bg9", 1):           {},
	} {
		if got := parseTrace(header); got != want {
			t.Errorf("%q: %+v, want %+v", header, got, want)
		}
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add(traceparent)
	f.Add(strings.Repeat("-", 55))
	f.Fuzz(func(t *testing.T, header string) {
		got := parseTrace(header)
		if (got.id == "") != (got.parent == "") || got.id != "" && (len(got.id) != 32 || !strings.Contains(header, got.id)) {
			t.Errorf("%q: %+v", header, got)
		}
	})
}

// Each line of a request's log has its id and its trace; a sampled request leaves a span.
func TestTracesInTheLog(t *testing.T) {
	for header, spans := range map[string]int{"": 0, traceparent: 1, strings.Replace(traceparent, "-01", "-00", 1): 0} {
		var log bytes.Buffer
		s := &Server{Config: Config{Logger: slog.New(tagging{slog.NewJSONHandler(&log, nil)})}}
		s.metrics = newMetrics(s)
		h := s.observed(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s.Logger.InfoContext(r.Context(), "work")
		}))
		r := httptest.NewRequest(http.MethodGet, "/v1/sales", nil)
		r.Header.Set("X-Request-Id", "r-1")
		r.Header.Set("Traceparent", header)
		h.ServeHTTP(httptest.NewRecorder(), r)
		found := 0
		for line := range strings.Lines(log.String()) {
			var l struct{ Msg, Request, Trace, Span, Parent, Name string }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			if l.Request != "r-1" || (l.Trace != "") != (header != "") {
				t.Errorf("%q: %s", header, line)
			}
			if l.Msg == "span" {
				found++
				if l.Name != "/v1/sales" || len(l.Span) != 16 || l.Parent != "00f067aa0ba902b7" {
					t.Errorf("%s", line)
				}
			}
		}
		if found != spans {
			t.Errorf("%q: %d spans\n%s", header, found, log.String())
		}
	}
}

// BenchmarkObserved: what observing costs a request whose trace is not sampled.
func BenchmarkObserved(b *testing.B) {
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	s := &Server{Config: Config{Logger: slog.New(tagging{slog.DiscardHandler})}}
	s.metrics = newMetrics(s)
	r := httptest.NewRequest(http.MethodGet, "/v1/sales", nil)
	r.Header.Set("X-Request-Id", "r-1")
	for name, header := range map[string]string{"no trace": "", "not sampled": strings.Replace(traceparent, "-01", "-00", 1)} {
		b.Run(name, func(b *testing.B) {
			r.Header.Set("Traceparent", header)
			h, w := s.observed(nothing), httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
}
