package replica

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Ops serves a node's metrics and health by HTTP: /metrics, /livez and /readyz. It can outlive
// its node. The zero value has none.
type Ops struct {
	mu   sync.Mutex
	node *Node
	why  string
}

// Set says which node there is, or why there is none.
func (o *Ops) Set(n *Node, why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.node, o.why = n, why
}

func (o *Ops) get() (*Node, string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.node, o.why
}

// ServeHTTP answers whoever asks: it tells nothing that clients wrote.
func (o *Ops) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, why := o.get()
	switch {
	case r.URL.Path == "/livez": // the process answers; starting it again gives no disk and no majority
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
	case r.URL.Path == "/readyz":
		o.ready(w, r, n, why)
	case r.URL.Path == "/metrics" && n != nil:
		promhttp.HandlerFor(n.stats.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	case r.URL.Path == "/metrics":
		http.Error(w, why, http.StatusServiceUnavailable)
	default:
		http.NotFound(w, r)
	}
}

type readiness struct {
	Status string            `json:"status"` // ready, or unavailable
	Checks map[string]string `json:"checks"` // ok, or what is wrong
}

// ready: this node serves clients or can pass them on, and could lead.
func (o *Ops) ready(w http.ResponseWriter, r *http.Request, n *Node, why string) {
	out := readiness{Status: "ready", Checks: map[string]string{}}
	if n == nil {
		out.Checks["node"] = why
	} else if what := stillness(n.cons.Pulse()); what != "" { // and the rest may have no answer
		out.Checks["log"] = what
	} else {
		ctx, cancel := context.WithTimeout(r.Context(), viewTime)
		defer cancel()
		out.Checks = n.checks(n.Status(ctx))
	}
	for what, is := range out.Checks {
		if is != "ok" && what != "writes" {
			out.Status = "unavailable"
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if out.Status != "ready" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(out) // the client may be gone
}

func (n *Node) checks(s Status) map[string]string {
	checks := map[string]string{"log": "ok", "leader": "ok", "engine": "ok", "writes": "ok"}
	switch err := n.cons.Failed(); {
	case errors.Is(err, ErrTakenOut):
		checks["member"] = err.Error()
	case err != nil:
		checks["log"] = "failed"
	}
	switch {
	case s.Leader == "" && n.isStranger():
		checks["leader"] = "none is known here, and other nodes do not know this one as a member: was it taken out of the cluster?"
	case s.Leader == "":
		checks["leader"] = "there is none, or it is not known here"
	case s.Leader == s.Name && !s.Leads:
		checks["leader"] = "this node, whose engine is not ready"
	}
	switch {
	case s.Engine.Error != "":
		checks["engine"] = "does not answer"
	case !s.Leads && s.Engine.Link != "connected":
		checks["engine"] = "has not got what is committed"
	}
	if s.Disk.Low || s.Disk.Refuses { // reads go on
		checks["writes"] = "disks have too little room"
	}
	return checks
}
