package server

import (
	_ "embed"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed page.html
var pageHTML string

// page is where a person watches a sale. It holds no data: it asks the API.
func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	html := strings.Replace(pageHTML, "{{storm}}", map[bool]string{true: "true", false: "false"}[s.Storm != nil], 1)
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write([]byte(html)) // the client may be gone
}

// storm starts a storm where there is one, and says at which sale.
func (s *Server) storm(w http.ResponseWriter, r *http.Request) {
	if s.Storm == nil {
		writeProblem(w, problem(http.StatusNotFound, "not-found", "storms are made by `holdfast up`"))
		return
	}
	sale, err := s.Storm(r.Context())
	if err != nil {
		var p *huma.ErrorModel
		if asProblem(s.fail(r.Context(), err), &p) {
			writeProblem(w, p)
		}
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(map[string]string{"sale": sale}) // the client may be gone
}

func asProblem(err error, p **huma.ErrorModel) bool { return errors.As(err, p) }
