// Package server is sales, payments and locks over HTTP.
//
// Promised: what flashsale, payment and lock promise, to clients of any language. A POST with an
// Idempotency-Key happens once, and its repeats get the same bytes until the key expires. Bad
// input gets a 4xx problem (RFC 9457) that names the field, and nothing is written. When a
// dependency is gone the answer is a 503 within a bounded time, and the server recovers by
// itself. Close ends nothing that has begun.
//
// Not promised: that a buyer is who the caller says. The owner of an API key speaks for all
// buyers; it authenticates them.
//
// Retries: repeat a POST with the same key after any 503, a 409 in-flight, or no answer at all.
// GET and DELETE may be repeated anyway.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"golang.org/x/sync/singleflight"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// Config of New. Store, DB, Sales and Payments are needed; they are the caller's to close.
type Config struct {
	Store    *store.Store
	DB       *sqldb.DB
	Sales    *flashsale.Sales
	Payments *payment.Payments
	Locks    *lock.Locker       // on Store, the caller's to close; without it there are no locks
	Limits   *ratelimit.Limiter // on Store, the caller's to close; without it there are no limits

	Keys        []Key         // who may call; without any, only this machine may
	Timeout     time.Duration // longest a request is worked on; default 10s
	MaxInFlight int           // requests worked on at once; more get 503; default 4096
	KeepEvents  time.Duration // how long events are kept for those who resume; default 24h
	Version     string        // shown in /openapi.json
	BackupDir   string        // where POST /v1/backups puts them; without it there are none
	Decisions   *Decisions    // of Store, for the metrics; default: none are shown
	LimitCalls  *LimitCalls   // of Limits, for the metrics and for who is refused most; default: neither
	EnvoyCalls  *EnvoyCalls   // of Envoy's rate limit service, for the metrics; default: none are shown
	Logger      *slog.Logger  // default: discard

	// Storm starts a storm of simulated buyers and returns the sale that it is at. It is what
	// the page's button does; without it there is no button.
	Storm func(ctx context.Context) (sale string, err error)
}

func (c Config) withDefaults() (Config, error) {
	if c.Store == nil || c.DB == nil || c.Sales == nil || c.Payments == nil {
		return c, errors.New("server: Store, DB, Sales and Payments are needed")
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 4096
	}
	if c.KeepEvents == 0 {
		c.KeepEvents = 24 * time.Hour
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Timeout < 0 || c.MaxInFlight < 0 || c.KeepEvents < time.Minute {
		return c, errors.New("server: a limit is negative, or KeepEvents is shorter than 1m")
	}
	return c, CheckKeys(c.Keys)
}

// Server answers requests. Handler is for an http.Server, which Serve provides.
type Server struct {
	Config
	api     huma.API
	handler http.Handler
	metrics *metrics
	hub     *hub
	slots   chan struct{}
	line    chan struct{} // requests that may stand in line for a lock
	quiet   quiet
	listing singleflight.Group

	work    context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	closing atomic.Bool
	copying atomic.Bool // a backup is being made
}

// New makes a server and starts its housekeeping, which Close ends.
func New(c Config) (*Server, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{Config: c, slots: make(chan struct{}, c.MaxInFlight), line: make(chan struct{}, c.MaxInFlight)}
	s.Logger = slog.New(tagging{c.Logger.Handler()})
	s.work, s.stop = context.WithCancel(context.Background())
	s.hub = newHub(s.work, c.DB, c.Sales, c.Logger)
	s.metrics = newMetrics(s)
	s.handler = s.routes()
	s.wg.Go(s.janitor)
	return s, nil
}

// Handler answers requests.
func (s *Server) Handler() http.Handler { return s.handler }

// Close ends event streams and housekeeping, and returns when no goroutine is left. Requests
// are the http.Server's to end; see Serve.
func (s *Server) Close() error {
	s.closing.Store(true)
	s.stop()
	s.hub.wait()
	s.wg.Wait()
	return nil
}

const maxBody = 16 << 10

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	cfg := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Holdfast", Version: s.Version,
				Description: "Sales that cannot oversell, locks whose late holders cannot harm. The owner of an API key speaks for all buyers: " +
					"`buyer` is who the caller says. Every error is a problem (RFC 9457) with a stable type.",
			},
			Components: &huma.Components{
				Schemas:         huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{"key": {Type: "http", Scheme: "bearer"}},
			},
			Security: []map[string][]string{{"key": {}}},
		},
		OpenAPIPath: "/openapi", Formats: map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat: "application/json", RejectUnknownQueryParameters: true,
		Transformers: []huma.Transformer{nameProblem},
	}
	s.api = humago.New(mux, cfg)
	s.saleRoutes()
	s.paymentRoutes()
	s.lockRoutes()
	s.limitRoutes()
	mux.HandleFunc("/", nothing(mux))

	root := http.NewServeMux()
	bounded := s.bounded(s.authenticated(mux))
	root.Handle("/v1/", bounded)
	patiently := s.patiently(s.authenticated(mux))
	root.Handle("POST /v1/locks/{name}/leases", patiently)
	root.Handle("POST /v1/leases", patiently)
	root.Handle("GET /v1/sales/{sale}/events", s.authenticated(http.HandlerFunc(s.events)))
	root.Handle("POST /v1/backups", s.authenticated(http.HandlerFunc(s.backups)))
	root.Handle("POST /storm", s.bounded(s.authenticated(http.HandlerFunc(s.storm))))
	root.Handle("GET /openapi.json", mux)
	root.Handle("GET /openapi.yaml", mux)
	root.HandleFunc("GET /livez", s.livez)
	root.HandleFunc("GET /readyz", s.readyz)
	root.Handle("GET /metrics", s.metrics.handler())
	root.HandleFunc("GET /{$}", s.page)
	root.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, problem(http.StatusNotFound, "not-found", "there is nothing at this path"))
	})
	return s.observed(s.trusted(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hot(r.URL.Path) {
			bounded.ServeHTTP(w, r)
			return
		}
		root.ServeHTTP(w, r)
	})))
}

// hot is where a sale's buyers are: the way through two multiplexers would be a part of its costs that shows.
func hot(path string) bool {
	return strings.HasPrefix(path, "/v1/sales/") && strings.HasSuffix(path, "/holds")
}

// nothing answers with problems where the multiplexer would answer with plain text.
func nothing(mux *http.ServeMux) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if allowed := methodsOf(mux, r); len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			writeProblem(w, problem(http.StatusMethodNotAllowed, "method-not-allowed", fmt.Sprintf("%s is not possible here", r.Method)))
			return
		}
		writeProblem(w, problem(http.StatusNotFound, "not-found", "there is nothing at this path"))
	}
}

// methodsOf says with which methods a path could be asked for.
func methodsOf(mux *http.ServeMux, r *http.Request) (allowed []string) {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := mux.Handler(other); pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	return allowed
}
