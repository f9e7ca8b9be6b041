package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"
)

// tags are what a request is known by in the log.
type tags struct {
	request string
	trace   trace
	caller  string // the name of its API key, once that was looked at
}

type tagsKey struct{}

func tagsOf(ctx context.Context) *tags {
	t, _ := ctx.Value(tagsKey{}).(*tags)
	return t
}

func requestID(ctx context.Context) string {
	if t := tagsOf(ctx); t != nil {
		return t.request
	}
	return ""
}

// trace is a caller's place in a distributed trace, as W3C Trace Context writes it in the header
// traceparent (https://www.w3.org/TR/trace-context/). The zero value is no trace.
type trace struct {
	id, parent string // hex
	sampled    bool
}

// parseTrace reads a traceparent. What is malformed is no trace, and nobody's fault: the
// specification wants such headers ignored.
func parseTrace(header string) (t trace) {
	// version-trace id-parent id-flags; later versions may have more behind a dash.
	if len(header) < 55 || header[2] != '-' || header[35] != '-' || header[52] != '-' {
		return t
	}
	version, id, parent, flags := header[:2], header[3:35], header[36:52], header[53:55]
	switch {
	case !isHex(version) || version == "ff" || version == "00" && len(header) != 55 || len(header) > 55 && header[55] != '-':
		return t
	case !isHex(id) || !isHex(parent) || !isHex(flags) || zeros(id) || zeros(parent):
		return t
	}
	return trace{id, parent, unhex(flags[1])&1 == 1}
}

func isHex(s string) bool {
	for i := range len(s) {
		if unhex(s[i]) < 0 {
			return false
		}
	}
	return true
}

// unhex is a digit's value, -1 for what is none; capitals are none here.
func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

func zeros(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return false
		}
	}
	return true
}

// newTags reads what a request brings of its own: an id, and a trace.
func newTags(r *http.Request) *tags {
	t := &tags{request: r.Header.Get("X-Request-Id"), trace: parseTrace(r.Header.Get("Traceparent"))}
	if !sane.MatchString(t.request) {
		var raw [16]byte // for the log; nobody has to be kept from guessing it
		for i := range 2 {
			n := rand.Uint64()
			for j := range 8 {
				raw[8*i+j] = byte(n >> (8 * j))
			}
		}
		t.request = hex.EncodeToString(raw[:])
	}
	return t
}

// span writes what a request of a sampled trace took to the log, from where collectors take it.
func (s *Server) span(ctx context.Context, t *tags, name string, status int, began time.Time) {
	if t.trace.sampled {
		s.Logger.InfoContext(ctx, "span", "name", name, "span", fmt.Sprintf("%016x", rand.Uint64()|1), "parent", t.trace.parent,
			"start", began, "took", time.Since(began), "status", status)
	}
}

// tagging adds a request's tags to each line that is logged in its context.
type tagging struct{ slog.Handler }

func (h tagging) Handle(ctx context.Context, r slog.Record) error {
	if t := tagsOf(ctx); t != nil {
		r.AddAttrs(slog.String("request", t.request))
		if t.trace.id != "" {
			r.AddAttrs(slog.String("trace", t.trace.id))
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h tagging) WithAttrs(attrs []slog.Attr) slog.Handler {
	return tagging{h.Handler.WithAttrs(attrs)}
}

func (h tagging) WithGroup(name string) slog.Handler { return tagging{h.Handler.WithGroup(name)} }
