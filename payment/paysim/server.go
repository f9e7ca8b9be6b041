package paysim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/payment"
)

// Server is the provider. Its Handler serves
//
//	POST /v1/authorise  {"ref","amount","currency","source"}
//	POST /v1/capture    {"ref"}       and the same for void and refund
//	GET  /v1/payments/{ref}
//	GET  /v1/faults     how many of each fault were dealt
//	GET  /healthz
type Server struct {
	opts Options
	book *book
	all  *dealer // faults of every request
	auth *dealer // of authorisations

	mu      sync.Mutex
	closed  bool
	closing chan struct{}
	wg      sync.WaitGroup // second deliveries
}

// New opens the log and makes a server. Errors: a log that is damaged, rates that make no sense.
func New(opts Options) (*Server, error) {
	if err := opts.Rates.validate(); err != nil {
		return nil, err
	}
	if opts.LateBy == 0 {
		opts.LateBy = 300 * time.Millisecond
	}
	if opts.HangBy == 0 {
		opts.HangBy = 3 * time.Second
	}
	b, err := openBook(opts.Log)
	if err != nil {
		return nil, err
	}
	return &Server{
		opts: opts, book: b, closing: make(chan struct{}),
		all:  newDealer(opts.Rates, opts.Seed, Late, Timeout, Cut, Duplicate),
		auth: newDealer(opts.Rates, opts.Seed, RefuseAuth, RefuseCapture, CaptureAtOnce),
	}, nil
}

// Close lets second deliveries happen and closes the log. The handler is not to be called any
// more.
func (s *Server) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	close(s.closing)
	s.wg.Wait()
	return s.book.close()
}

type request struct {
	Ref      string `json:"ref"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Source   string `json:"source"`
}

type answer struct {
	Status payment.Status `json:"status"`
	Reason string         `json:"reason,omitempty"`
}

// Handler serves the provider's API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, op := range []string{"authorise", "capture", "void", "refund"} {
		mux.HandleFunc("POST /v1/"+op, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, op) })
	}
	mux.HandleFunc("GET /v1/payments/{ref}", func(w http.ResponseWriter, r *http.Request) {
		a, err := s.lookup(r.PathValue("ref"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		reply(w, a)
	})
	mux.HandleFunc("GET /v1/faults", func(w http.ResponseWriter, _ *http.Request) {
		counts := map[Fault]int{}
		s.all.counts(counts)
		s.auth.counts(counts)
		reply(w, counts)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { reply(w, answer{Status: "ok"}) })
	return mux
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that is gone does not want it
}

// decode reads one small JSON object and nothing else.
func decode(body io.Reader, op string) (request, error) {
	var r request
	dec := json.NewDecoder(io.LimitReader(body, maxLine/2))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return r, fmt.Errorf("body: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return r, errors.New("body: something follows the object")
	}
	_, known := ledger.Currency(r.Currency)
	switch {
	case r.Ref == "" || len(r.Ref) > 100:
		return r, errors.New("ref must have 1..100 bytes")
	case op == "authorise" && (r.Amount <= 0 || r.Amount > ledger.MaxAmount):
		return r, errors.New("amount must be 1..2^53")
	case op == "authorise" && !known:
		return r, errors.New("currency is no ISO 4217 code")
	}
	return r, nil
}

// serve handles a request, and does to it what the deck says.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, op string) {
	req, err := decode(r.Body, op)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fault := s.all.deal()
	if fault == Late {
		s.pause(r, s.opts.LateBy)
	}
	res, err := s.act(op, req, true)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	switch fault {
	case Timeout:
		s.pause(r, s.opts.HangBy)
		panic(http.ErrAbortHandler)
	case Cut:
		panic(http.ErrAbortHandler)
	case Duplicate:
		s.again(op, req)
	}
	reply(w, res)
}

func (s *Server) pause(r *http.Request, d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.Context().Done():
	case <-s.closing:
	}
}

// again delivers a request a second time, late, as a network may.
func (s *Server) again(op string, req request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.wg.Go(func() {
		select {
		case <-time.After(s.opts.LateBy * 2):
		case <-s.closing:
		}
		_, _ = s.act(op, req, false) // nobody waits for the answer
	})
}

func (s *Server) lookup(ref string) (answer, error) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	e := s.book.refs[ref]
	if e == nil {
		return answer{Status: payment.StatusUnknown}, nil
	}
	return s.onRecord(e)
}

// onRecord answers with what is on disk of a reference. book.mu is held.
func (s *Server) onRecord(e *entry) (answer, error) {
	a := answer{e.status, e.reason}
	return a, s.book.sync(e.line)
}

// act decides an operation and logs its effect, if it has one.
func (s *Server) act(op string, req request, first bool) (answer, error) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	e := s.book.refs[req.Ref]
	if e == nil {
		e = &entry{status: payment.StatusUnknown}
	}
	line := Line{Op: op, Ref: req.Ref, Amount: e.amount, Currency: e.currency}
	switch {
	case op == "authorise" && e.status == payment.StatusUnknown:
		line.Amount, line.Currency = req.Amount, req.Currency
		s.authorise(&line, first)
	case op == "authorise" && e.amount != 0 && (e.amount != req.Amount || e.currency != req.Currency):
		return answer{payment.StatusRefused, "the reference has another amount"}, nil
	case op == "capture" && e.status == payment.StatusAuthorised && e.noCapture:
		return answer{payment.StatusRefused, "capture is not possible"}, nil
	case op == "capture" && e.status == payment.StatusAuthorised:
		line.Outcome = payment.StatusCaptured
	case op == "void" && (e.status == payment.StatusAuthorised || e.status == payment.StatusUnknown):
		line.Outcome = payment.StatusVoided
	case op == "refund" && e.status == payment.StatusCaptured:
		line.Outcome = payment.StatusRefunded
	default: // it has happened, or cannot happen any more: what is on record is the answer
		return s.onRecord(e)
	}
	if err := s.book.append(line); err != nil {
		return answer{}, err
	}
	return answer{line.Outcome, line.Reason}, nil
}

func (s *Server) authorise(line *Line, first bool) {
	line.Outcome = payment.StatusAuthorised
	if !first {
		return
	}
	switch s.auth.deal() {
	case RefuseAuth:
		line.Outcome, line.Reason = payment.StatusRefused, "the card was declined"
	case RefuseCapture:
		line.NoCapture = true
	case CaptureAtOnce:
		line.Outcome = payment.StatusCaptured
	}
}
