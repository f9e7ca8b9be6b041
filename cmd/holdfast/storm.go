package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-dev/holdfast/flashsale"
)

const (
	stormBuyers   = 2000
	stormStock    = 200
	stormParallel = 64
	stormLongest  = time.Minute
	stormTries    = 12
	stormPause    = 3 * time.Second
)

// storm sends simulated buyers to the server that it lives in, over HTTP like any other client.
// It is for the page's button; the drill is another thing.
type storm struct {
	base    string
	sales   *flashsale.Sales
	logger  *slog.Logger
	ctx     context.Context
	running atomic.Bool
	wg      sync.WaitGroup
}

var errStorm = fmt.Errorf("%w: a storm is on", flashsale.ErrInFlight)

// start opens a sale and lets the storm go. One at a time.
func (s *storm) start(ctx context.Context) (string, error) {
	if !s.running.CompareAndSwap(false, true) {
		return "", errStorm
	}
	sale, err := s.sales.Create(ctx, flashsale.NewSale{
		Name:  "Storm of " + time.Now().Format("15:04:05") + fmt.Sprintf(": %d units, %d buyers", stormStock, stormBuyers),
		Stock: stormStock, Price: 4900, Currency: "EUR", HoldSeconds: 10,
	})
	if err != nil {
		s.running.Store(false)
		return "", err
	}
	s.wg.Go(func() {
		defer s.running.Store(false)
		s.run(sale)
	})
	return sale.ID, nil
}

func (s *storm) wait() { s.wg.Wait() }

func (s *storm) run(sale flashsale.Sale) {
	ctx, cancel := context.WithTimeout(s.ctx, stormLongest)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: stormParallel, MaxIdleConnsPerHost: stormParallel}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range stormBuyers {
		wg.Go(func() {
			if err := s.buyer(ctx, client, sale, fmt.Sprintf("buyer-%d", i)); err != nil && ctx.Err() == nil {
				s.logger.Debug("storm", "error", err)
			}
		})
	}
	wg.Wait()
}

// buyer holds a unit and, three times out of four, pays for it. Who is told "sold out" comes
// back a few times: holds that nobody pays for end.
func (s *storm) buyer(ctx context.Context, client *http.Client, sale flashsale.Sale, name string) error {
	var hold flashsale.Hold
	for try := 0; ; try++ {
		err := s.post(ctx, client, "/v1/sales/"+sale.ID+"/holds", map[string]any{"buyer": name}, &hold)
		if err == nil {
			break
		}
		if !errors.Is(err, errRefused) || try == stormTries {
			return err
		}
		select {
		case <-time.After(stormPause/2 + rand.N(stormPause)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if rand.IntN(4) == 0 {
		return nil
	}
	return s.post(ctx, client, "/v1/payments", map[string]any{
		"hold": hold.ID, "buyer": name, "amount": hold.Price, "currency": hold.Currency, "source": "tok_demo",
	}, nil)
}

var errRefused = errors.New("refused")

// post sends a request with a key of its own, and repeats it a few times while the server asks
// for that.
func (s *storm) post(ctx context.Context, client *http.Client, path string, body map[string]any, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	key := `"` + uuid.NewString() + `"`
	for range 5 {
		status, answer, err := s.send(ctx, client, path, key, text)
		switch {
		case err != nil:
			return err
		case status/100 == 2 && into != nil:
			return json.Unmarshal(answer, into)
		case status/100 == 2:
			return nil
		case status == http.StatusConflict:
			return fmt.Errorf("%s: %w", path, errRefused)
		case status != http.StatusServiceUnavailable:
			return fmt.Errorf("%s: status %d", path, status)
		}
	}
	return errors.New(path + ": gave up")
}

func (s *storm) send(ctx context.Context, client *http.Client, path, key string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	return resp.StatusCode, answer, err
}
