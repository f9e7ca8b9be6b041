package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// load asks for holds at a fixed rate, whatever becomes of them (an open loop).
type load struct {
	url, sale string
	rate      int
	kept      *http.Client // keeps its connections, and repeats a request whose connection was closed
	once      *http.Client // a connection for each request, and no repeats

	sent, inFlight, answered atomic.Int64
	stop                     context.CancelFunc
	ended                    chan struct{}
	began                    time.Time
	lasted                   time.Duration

	mu       sync.Mutex
	told     map[string]string // key → hold
	failures []string
	took     []time.Duration
	fresh    int
}

// freshEvery: one request in so many has a connection of its own.
const freshEvery = 5

func newLoad(url, sale string, rate int) *load {
	dialer := &net.Dialer{Timeout: requestWithin}
	return &load{
		url: url, sale: sale, rate: rate, told: map[string]string{}, ended: make(chan struct{}),
		kept: &http.Client{Timeout: requestWithin, Transport: &http.Transport{
			DialContext: dialer.DialContext, MaxIdleConnsPerHost: 256, DisableCompression: true,
		}},
		once: &http.Client{Timeout: requestWithin, Transport: &http.Transport{
			DialContext: dialer.DialContext, DisableKeepAlives: true, DisableCompression: true,
		}},
	}
}

// start begins; end, or the end of ctx, ends it.
func (l *load) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	l.began = time.Now()
	go func() {
		defer close(l.ended)
		var all sync.WaitGroup
		defer all.Wait()
		for n := 0; ; n++ {
			due := l.began.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
			select {
			case <-time.After(time.Until(due)):
			case <-ctx.Done():
				return
			}
			all.Go(func() { l.ask(n, due) })
		}
	}()
}

// end waits for what is on its way.
func (l *load) end() {
	l.stop()
	<-l.ended
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lasted == 0 {
		l.lasted = time.Since(l.began)
	}
	l.kept.CloseIdleConnections()
}

// ask sends one request; nobody repeats it but, on a connection that was closed while idle, the
// transport, which may because there is a key.
func (l *load) ask(n int, due time.Time) {
	l.sent.Add(1)
	l.inFlight.Add(1)
	defer l.inFlight.Add(-1)
	key := fmt.Sprintf("k%d", n)
	client, fresh := l.kept, n%freshEvery == 0
	if fresh {
		client = l.once
	}
	hold, err := l.hold(client, key, fresh)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failures = append(l.failures, fmt.Sprintf("%s after %s: %v", key, time.Since(due).Round(time.Millisecond), err))
		return
	}
	l.answered.Add(1)
	l.told[key] = hold
	l.took = append(l.took, time.Since(due))
	if fresh {
		l.fresh++
	}
}

func (l *load) hold(client *http.Client, key string, fresh bool) (id string, err error) {
	body, err := json.Marshal(map[string]string{"buyer": key})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequest(http.MethodPost, l.url+"/v1/sales/"+l.sale+"/holds", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	if fresh {
		req.GetBody = nil // so that the transport cannot repeat it
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", strconv.Quote(key))
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	id = parse[struct{ ID string }](string(answer)).ID
	if resp.StatusCode != http.StatusCreated || id == "" {
		return "", fmt.Errorf("%s %.200s", resp.Status, answer)
	}
	return id, nil
}

// quantile is in ms.
func (l *load) quantile(q float64) float64 {
	if len(l.took) == 0 {
		return 0
	}
	slices.Sort(l.took)
	i := min(int(q*float64(len(l.took))), len(l.took)-1)
	return rounded(float64(l.took[i].Microseconds()) / 1000)
}

// createSale makes a sale that is never sold out.
func (l *load) createSale(ctx context.Context) error {
	body, err := json.Marshal(map[string]any{
		"id": l.sale, "name": "Drill", "stock": 1_000_000, "price": price, "currency": currency, "hold_seconds": 3600,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+"/v1/sales", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.kept.Do(req)
	if err != nil {
		return fmt.Errorf("drill: creating the sale: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		return fmt.Errorf("drill: creating the sale: %s %s", resp.Status, answer)
	}
	return nil
}

// readHolds is which holds a sale has, and whose they are.
func readHolds(ctx context.Context, raw, sale string) (map[string]string, error) {
	db, err := openDB(raw)
	if err != nil {
		return nil, err
	}
	holds := map[string]string{}
	r := reader{ctx: ctx, db: db}
	r.each(`SELECT id, buyer FROM holds WHERE sale = '`+sale+`'`, func(scan scanner) error {
		var id, buyer string
		err := scan(&id, &buyer)
		holds[id] = buyer
		return err
	})
	return holds, errors.Join(r.err, db.Close())
}
