package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/sqldb"
)

type event struct {
	kind, id string
	data     struct{ Stock, Held, Sold, Version, Attempts, Refused int64 }
}

// watch opens a stream and hands out its events.
func (r *rig) watch(sale, last string) (next func(kind string) event, stop func()) {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	req := r.request("GET", "/v1/sales/"+sale+"/events", "").WithContext(ctx)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := r.web.Client().Do(req)
	if err != nil {
		r.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		r.Fatalf("stream: %s", resp.Status)
	}
	events := make(chan event, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(events)
		defer resp.Body.Close()
		var e event
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "event":
				e.kind = value
			case "id":
				e.id = value
			case "data":
				_ = json.Unmarshal([]byte(value), &e.data)
			case "":
				if e.kind != "" {
					events <- e
				}
				e = event{}
			}
		}
	}()
	next = func(kind string) event {
		r.Helper()
		for deadline := time.After(10 * time.Second); ; {
			select {
			case e, open := <-events:
				if !open {
					return event{kind: "end"}
				}
				if e.kind == kind {
					return e
				}
			case <-deadline:
				r.Fatalf("no event %s within 10 s", kind)
			}
		}
	}
	return next, func() { cancel(); <-done }
}

func TestEvents(t *testing.T) {
	r := newRig(t)
	r.sale("drop", 3)
	next, stop := r.watch("drop", "")
	if e := next("stock"); e.data.Stock != 3 || e.data.Held != 0 || e.id == "" {
		t.Errorf("first: %+v", e)
	}
	hold := r.hold("drop", "ada")
	first := next("stock")
	if first.data.Held != 1 || first.data.Version != 1 {
		t.Errorf("after a hold: %+v", first)
	}
	if e := next("activity"); e.data.Attempts != 1 {
		t.Errorf("activity: %+v", e)
	}
	stop()

	r.want(204, "DELETE", "/v1/sales/drop/holds/"+hold.ID, "", nil)
	next, stop = r.watch("drop", first.id)
	e := next("stock")
	if e.data.Held != 0 || e.data.Version != 2 {
		t.Errorf("resumed: %+v", e)
	}
	stop()

	// Who has everything gets nothing until something changes.
	next, stop = r.watch("drop", e.id)
	defer stop()
	next("activity")
	r.hold("drop", "bob")
	if e := next("stock"); e.data.Held != 1 || e.data.Version != 3 {
		t.Errorf("after the resume: %+v", e)
	}
}

// Many watchers cost one reader; they end with the server.
func TestStreamsEndWithTheServer(t *testing.T) {
	r := newRig(t)
	r.sale("drop", 3)
	var nexts []func(string) event
	for range 20 {
		next, stop := r.watch("drop", "")
		defer stop()
		next("stock")
		nexts = append(nexts, next)
	}
	if a := r.do("GET", "/metrics", ""); !strings.Contains(string(a.body), "holdfast_event_streams 20") {
		t.Error("not 20 streams")
	}
	r.hold("drop", "ada")
	for i, next := range nexts {
		if e := next("stock"); e.data.Held != 1 {
			t.Errorf("watcher %d: %+v", i, e)
		}
	}
	if err := r.server.Close(); err != nil {
		t.Error(err)
	}
	for _, next := range nexts {
		if e := next("stock"); e.kind != "end" {
			t.Errorf("after Close: %+v", e)
		}
	}
}

// Transactions that overlap can publish a later version before an earlier one. A stream ends up with
// the latest, and stays there.
func TestEventsOutOfOrder(t *testing.T) {
	r := newRig(t)
	r.sale("drop", 9)
	next, stop := r.watch("drop", "")
	defer stop()
	next("stock")
	if err := r.db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		var all []sqldb.Event
		for _, version := range []int64{5, 7, 6} {
			payload, err := json.Marshal(flashsale.StockEvent{Stock: 9, Held: version, Version: version})
			if err != nil {
				return err
			}
			all = append(all, sqldb.Event{Topic: flashsale.Topic("drop"), Kind: "held", Payload: payload})
		}
		return tx.PublishAll(ctx, all...)
	}); err != nil {
		t.Fatal(err)
	}
	if e := next("stock"); e.data.Version != 7 || e.data.Held != 7 {
		t.Errorf("%+v", e)
	}
}
