package server

import (
	"context"
	"encoding/json"
	"net/http"
)

// livez says that the process answers. It looks at nothing else: restarting a server does not
// bring a database back.
func (s *Server) livez(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

type readiness struct {
	Status string            `json:"status"` // ready, or unavailable
	Checks map[string]string `json:"checks"` // by dependency: ok, or what is wrong
}

// readyz says whether the promises can be kept now, and names what is down.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), probeTime)
	defer cancel()
	out := readiness{Status: "ready", Checks: map[string]string{}}
	for name, err := range s.check(ctx) {
		out.Checks[name] = "ok"
		if err != nil {
			out.Checks[name] = "down" // why is in the log: this page needs no key
			out.Status = "unavailable"
			s.Logger.Warn("not ready", "dependency", name, "error", err)
		}
	}
	if s.closing.Load() {
		out.Status, out.Checks["server"] = "unavailable", "shutting down"
	}
	w.Header().Set("Content-Type", "application/json")
	if out.Status != "ready" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(out) // the client may be gone
}
