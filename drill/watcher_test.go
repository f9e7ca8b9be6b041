package drill

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// A watcher whose connection ends goes on from its last event.
func TestWatcherResumes(t *testing.T) {
	var connections atomic.Int64
	resumed := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if connections.Add(1) == 1 {
			fmt.Fprint(w, "retry: 1000\n\n: hello\n\nevent: stock\nid: 7.1\ndata: {\"stock\":5,\"held\":1,\"version\":3}\n\n"+
				"event: activity\ndata: {\"attempts\":1}\n\nevent: stock\nid: 8.1\ndata: {\"stock\":5,\"held\":2,\"version\":4}\n\nevent: stock\nid: 9.1\ndata: {")
			return
		}
		select {
		case resumed <- r.Header.Get("Last-Event-ID"):
		default:
		}
		fmt.Fprint(w, "event: stock\nid: 9.1\ndata: {\"stock\":5,\"sold\":2,\"version\":5}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	c := newClient(func() string { return server.URL }, "secret", 4, newRecord())
	defer c.close()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watcher{client: c, path: "/v1/sales/s/events"}
	done := make(chan struct{})
	go func() { defer close(done); w.follow(ctx) }()
	until(t, "it sees the last state", func() bool { return w.shows(0, 2) })
	cancel()
	<-done
	if id := <-resumed; id != "8.1" {
		t.Errorf("resumed from %q", id)
	}
	if len(w.seen.Events) != 3 || w.seen.Connections != 2 || w.seen.Events[2].Connection != 2 || w.seen.Events[1].Version != 4 {
		t.Errorf("%+v", w.seen)
	}
}
