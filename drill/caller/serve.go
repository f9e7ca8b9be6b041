package caller

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/drill/web"
)

// ServeOptions of Serve.
type ServeOptions struct {
	Store   string // URL
	Rules   string // file
	Listen  string
	Timeout time.Duration // for the store's answers
	Ready   func(net.Listener) error
}

// decisions is the limits of an embedded store, for several processes.
type decisions struct {
	limits limits

	mu   sync.Mutex
	open map[string]answer // that can be settled or given back, by id
}

// Serve decides for callers, until ctx is done: an embedded store belongs to one process.
func Serve(ctx context.Context, o ServeOptions) (err error) {
	l, err := openLimits(ctx, Options{Store: o.Store, Rules: o.Rules, Processes: 1, Timeout: o.Timeout})
	if err != nil {
		return err
	}
	d := &decisions{limits: l, open: map[string]answer{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /decisions", d.decide)
	mux.HandleFunc("POST /settlements", d.settle)
	return web.Serve(ctx, o.Listen, mux, o.Ready, cleanTime, func() error {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer cancel()
		return l.close(clean)
	})
}

func (d *decisions) decide(w http.ResponseWriter, r *http.Request) {
	var q question
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&q); err != nil || len(q.Wants) == 0 {
		http.Error(w, "not a question", http.StatusBadRequest)
		return
	}
	var what []want
	for _, a := range q.Wants {
		what = append(what, want{a.Rule, a.Key, a.Units})
	}
	ctx := context.WithoutCancel(r.Context())
	var a answer
	var err error
	id := q.ID
	switch q.Mode {
	case modeReserve:
		a, err = d.limits.reserve(ctx, q.ID, what[0])
	case modeLook:
		a, err = d.limits.look(ctx, what[0])
	default:
		id = rand.Text()
		a, err = d.limits.take(ctx, what...)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if a.allowed && (q.Mode == modeReserve || what[0].rule == slots) {
		d.mu.Lock()
		d.open[id] = a
		d.mu.Unlock()
	}
	reply(w, told{a.allowed, a.source, a.wait.Microseconds(), a.left, id})
}

func (d *decisions) settle(w http.ResponseWriter, r *http.Request) {
	var s settlement
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&s); err != nil {
		http.Error(w, "not a settlement", http.StatusBadRequest)
		return
	}
	d.mu.Lock()
	a, ok := d.open[s.ID]
	if s.Actual == nil {
		delete(d.open, s.ID)
	}
	d.mu.Unlock()
	if !ok {
		http.Error(w, "nothing is known of it", http.StatusNotFound)
		return
	}
	ctx, err := context.WithoutCancel(r.Context()), error(nil)
	if s.Actual == nil {
		err = a.release(ctx)
	} else {
		err = a.settle(ctx, *s.Actual)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	reply(w, struct{}{})
}

func reply(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // whoever asked may be gone
}
