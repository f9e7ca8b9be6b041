package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-dev/holdfast/sqldb"
)

const (
	streamPing  = 15 * time.Second
	streamWrite = 10 * time.Second // longest one write to a slow client
)

// describeEvents puts the stream into the OpenAPI document; huma does not serve it, because it
// has no end.
func (s *Server) describeEvents() {
	s.api.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "watch-sale", Method: http.MethodGet, Path: "/v1/sales/{sale}/events",
		Summary: "The stock as it changes (server-sent events)",
		Description: "Each event `stock` carries the whole state: stock, held, sold, version. Changes within " +
			"100 ms come as one. A client that resumes with Last-Event-ID gets the present state at once if " +
			"anything has changed since. Events `activity` count the requests of the process that answers.",
		Parameters: []*huma.Param{
			{Name: "sale", In: "path", Required: true, Schema: &huma.Schema{Type: "string"}},
			{Name: "Last-Event-ID", In: "header", Schema: &huma.Schema{Type: "string"}},
		},
		Responses: map[string]*huma.Response{
			"200": {Description: "The stream", Content: map[string]*huma.MediaType{"text/event-stream": {}}},
			"400": {Description: "Last-Event-ID is malformed"}, "404": {Description: "No such sale"},
		},
	})
}

// events streams a sale's stock.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("sale")
	var after sqldb.Cursor
	if header := r.Header.Get("Last-Event-ID"); header != "" {
		var err error
		if after, err = sqldb.ParseCursor(header); err != nil {
			writeProblem(w, problem(http.StatusBadRequest, "malformed", "Last-Event-ID is none of ours"))
			return
		}
	}
	if _, err := s.Sales.Sale(r.Context(), id); err != nil {
		var p *huma.ErrorModel
		if asProblem(s.fail(r.Context(), err), &p) {
			writeProblem(w, p)
		}
		return
	}
	topic, leave := s.hub.watch(id)
	defer leave()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	(&stream{server: s, topic: topic, w: w, rc: http.NewResponseController(w), after: after, version: -1}).run(r)
}

// stream is one client that watches.
type stream struct {
	server  *Server
	topic   *topic
	w       http.ResponseWriter
	rc      *http.ResponseController
	after   sqldb.Cursor // the last that the client has
	version int64        // that was sent, -1 before
	told    string       // the last activity
}

func (st *stream) run(r *http.Request) {
	ping, second := time.NewTicker(streamPing), time.NewTicker(time.Second)
	defer ping.Stop()
	defer second.Stop()
	if st.write("retry: 1000\n\n") != nil {
		return
	}
	for {
		state, cursor, known, changed := st.topic.last()
		if err := st.stock(state, cursor, known); err != nil {
			return
		}
		var err error
		select {
		case <-changed:
		case <-second.C:
			err = st.activity(r)
		case <-ping.C:
			err = st.write(": still here\n\n")
		case <-r.Context().Done():
			return
		case <-st.server.work.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// stock sends the state, unless the client has it.
func (st *stream) stock(state stock, cursor sqldb.Cursor, known bool) error {
	if !known || state.Version == st.version || (cursor == st.after && cursor != sqldb.Cursor{}) {
		return nil
	}
	st.version, st.after = state.Version, cursor
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return st.write("event: stock\nid: " + cursor.String() + "\ndata: " + string(data) + "\n\n")
}

// activity tells what this process was asked for, when that has changed.
func (st *stream) activity(r *http.Request) error {
	a, err := st.server.Sales.Activity(r.Context(), st.topic.sale)
	if err != nil {
		return nil //nolint:nilerr // the stream goes on; the next second tries again
	}
	data, err := json.Marshal(a)
	if err != nil || string(data) == st.told {
		return err
	}
	st.told = string(data)
	return st.write("event: activity\ndata: " + st.told + "\n\n")
}

// write ends the stream of a client that does not read.
func (st *stream) write(text string) error {
	if err := st.rc.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
		return fmt.Errorf("server: stream: %w", err)
	}
	if _, err := st.w.Write([]byte(text)); err != nil {
		return err
	}
	return st.rc.Flush()
}
