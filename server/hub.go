package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/sqldb"
)

const (
	followEvery = 100 * time.Millisecond
	followPage  = 500
)

// hub follows the outbox for all streams of this process: one reader for each sale that is
// watched, however many watch it.
type hub struct {
	ctx    context.Context
	db     *sqldb.DB
	sales  *flashsale.Sales
	logger *slog.Logger
	quiet  quiet

	mu     sync.Mutex
	topics map[string]*topic
	wg     sync.WaitGroup
}

// topic is a sale that is watched. State is the whole of it, so whoever is late needs only the
// last one.
type topic struct {
	sale     string
	watchers int
	cancel   context.CancelFunc

	mu      sync.Mutex
	state   stock
	cursor  sqldb.Cursor
	known   bool          // state is there
	changed chan struct{} // closed at the next change
}

// stock is what a stream's events carry.
type stock struct {
	Stock   int64 `json:"stock"`
	Held    int64 `json:"held"`
	Sold    int64 `json:"sold"`
	Version int64 `json:"version"`
}

func newHub(ctx context.Context, db *sqldb.DB, sales *flashsale.Sales, logger *slog.Logger) *hub {
	return &hub{ctx: ctx, db: db, sales: sales, logger: logger, topics: map[string]*topic{}}
}

func (h *hub) wait() { h.wg.Wait() }

func (h *hub) watchers() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.topics {
		n += t.watchers
	}
	return n
}

// watch returns the sale's topic; leave ends the following when nobody is left.
func (h *hub) watch(sale string) (t *topic, leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t = h.topics[sale]
	if t == nil {
		ctx, cancel := context.WithCancel(h.ctx)
		t = &topic{sale: sale, cancel: cancel, changed: make(chan struct{})}
		h.topics[sale] = t
		if h.ctx.Err() == nil {
			h.wg.Go(func() { h.follow(ctx, t) })
		}
	}
	t.watchers++
	return t, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if t.watchers--; t.watchers == 0 {
			t.cancel()
			delete(h.topics, sale)
		}
	}
}

// last returns the state, and a channel that is closed when there is another.
func (t *topic) last() (state stock, cursor sqldb.Cursor, known bool, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state, t.cursor, t.known, t.changed
}

// set takes a newer state. The first one comes from the sale's row, which can be ahead of the
// events that follow.
func (t *topic) set(next stock, cursor sqldb.Cursor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known && next.Version <= t.state.Version {
		return
	}
	t.state, t.cursor, t.known = next, cursor, true
	close(t.changed)
	t.changed = make(chan struct{})
}

func (h *hub) follow(ctx context.Context, t *topic) {
	var cursor sqldb.Cursor
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		if err := h.step(ctx, t, &cursor); err != nil && ctx.Err() == nil {
			if kept, ok := h.quiet.line("", time.Now()); ok {
				h.logger.Warn("events: following", "sale", t.sale, "error", err, "unlogged", kept)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// latest is the state with the highest version. It need not come last: of transactions that
// overlapped, the one that committed last may have begun first.
func latest(events []sqldb.Event) (latest stock, err error) {
	for i, e := range events {
		var s stock
		if err := json.Unmarshal(e.Payload, &s); err != nil {
			return stock{}, err
		}
		if i == 0 || s.Version > latest.Version {
			latest = s
		}
	}
	return latest, nil
}

// step reads what is new. Many changes become one event: the last.
func (h *hub) step(ctx context.Context, t *topic, cursor *sqldb.Cursor) error {
	if _, _, known, _ := t.last(); !known {
		at, err := h.db.LastCursor(ctx, flashsale.Topic(t.sale))
		if err != nil {
			return err
		}
		*cursor = at
		sale, version, err := h.sales.Snapshot(ctx, t.sale)
		if err != nil {
			return err
		}
		t.set(stock{sale.Stock, sale.Held, sale.Sold, version}, at)
		return nil
	}
	for {
		events, err := h.db.Events(ctx, flashsale.Topic(t.sale), *cursor, followPage)
		if err != nil || len(events) == 0 {
			return err
		}
		*cursor = events[len(events)-1].Cursor
		latest, err := latest(events)
		if err != nil {
			return err
		}
		t.set(latest, *cursor)
		if len(events) < followPage {
			return nil
		}
	}
}
