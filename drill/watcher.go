package drill

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	watchers    = 2
	watchWithin = 5 * time.Second // until a watcher has seen the last change
)

// watcher follows a sale's events as a page does: when its server dies it goes on elsewhere,
// from the last event that it has.
type watcher struct {
	client *client
	path   string

	mu   sync.Mutex
	seen stream
	last string // id of the last event
}

// stream is what one watcher saw.
type stream struct {
	Connections int
	Events      []streamed
}

type streamed struct {
	Connection int
	stockEvent
}

func (w *watcher) follow(ctx context.Context) {
	for {
		w.once(ctx) // however it ended: the next connection goes on from there
		if !wait(ctx, 100*time.Millisecond) {
			return
		}
	}
}

// once reads one connection to its end.
func (w *watcher) once(ctx context.Context) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.client.pick()+w.path, nil)
	if err != nil {
		return
	}
	req.Header.Set("Authorization", "Bearer "+w.client.secret)
	if w.last != "" {
		req.Header.Set("Last-Event-ID", w.last)
	}
	resp, err := w.client.http.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		w.client.record.count(fmt.Sprintf("answer %d of a stream", resp.StatusCode))
		return
	}
	w.mu.Lock()
	w.seen.Connections++
	w.mu.Unlock()
	w.read(resp.Body)
}

// read takes events apart: lines "event:", "id:" and "data:", and an empty line at the end.
func (w *watcher) read(body io.Reader) {
	var event, id, data string
	for lines := bufio.NewScanner(body); lines.Scan(); {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			event = value
		case "id":
			id = value
		case "data":
			data = value
		case "":
			if lines.Text() == "" && event == "stock" {
				w.saw(id, parse[stockEvent](data))
			}
			if lines.Text() == "" {
				event, id, data = "", "", ""
			}
		}
	}
}

func (w *watcher) saw(id string, ev stockEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = id
	w.seen.Events = append(w.seen.Events, streamed{w.seen.Connections, ev})
}

// shows says whether the last event has these numbers.
func (w *watcher) shows(held, sold int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.seen.Events)
	return n > 0 && w.seen.Events[n-1].Held == held && w.seen.Events[n-1].Sold == sold
}

// startWatching begins to follow the sale; stop ends it when all have seen the last change, or
// should have, and returns what they saw.
func (r *run) startWatching(ctx context.Context) (stop func() []stream) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	all := make([]*watcher, watchers)
	for i := range all {
		w := &watcher{client: r.client, path: "/v1/sales/" + r.saleID + "/events"}
		all[i] = w
		wg.Go(func() { w.follow(ctx) })
	}
	return func() (seen []stream) {
		patience, done := context.WithTimeout(ctx, watchWithin)
		defer done()
		s, ok := get[saleTold](patience, r.client, "/v1/sales/"+r.saleID)
		for _, w := range all {
			for ok && !w.shows(s.Held, s.Sold) && wait(patience, 20*time.Millisecond) {
			}
		}
		cancel()
		wg.Wait()
		for _, w := range all {
			seen = append(seen, w.seen)
		}
		return seen
	}
}

// eventsStreamed compares what watchers saw with the events that SQL has.
func eventsStreamed(e *evidence) (wrong findings, looked string) {
	events := map[int64]stockEvent{}
	for _, ev := range e.Events {
		events[ev.Version] = ev
	}
	seen, connections := 0, 0
	for i, s := range e.Streams {
		seen += len(s.Events)
		connections += s.Connections
		for j, ev := range s.Events {
			is := events[ev.Version]
			if ev.Stock != is.Stock || ev.Held != is.Held || ev.Sold != is.Sold {
				wrong.add("watcher %d saw sold %d + held %d as version %d", i, ev.Sold, ev.Held, ev.Version)
			}
			if j > 0 && s.Events[j-1].Connection == ev.Connection && s.Events[j-1].Version >= ev.Version {
				wrong.add("watcher %d saw version %d after %d", i, ev.Version, s.Events[j-1].Version)
			}
		}
		if n := len(s.Events); n == 0 || s.Events[n-1].Version != e.Sale.Version {
			wrong.add("watcher %d did not see the last of the sale", i)
		}
	}
	if len(e.Streams) == 0 {
		wrong.add("nobody watched")
	}
	return wrong, fmt.Sprintf("%d watchers saw %d states over %d connections, up to the last", len(e.Streams), seen, connections)
}
