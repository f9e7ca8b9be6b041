package caller

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// apiTime bounds a request: a server that is gone is no reason to wait.
const apiTime = 300 * time.Millisecond

// api asks Serve, as a program in another language would ask a server.
type api struct {
	url  string
	http *http.Client
}

func openAPI(o Options) limits {
	return &api{o.API, &http.Client{Timeout: apiTime, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}}
}

func (a *api) close(context.Context) error {
	a.http.CloseIdleConnections()
	return nil
}

func (a *api) live() int { return 0 } // the server is one process

// question and told are what goes over the wire.
type question struct {
	Mode  string `json:"mode"`
	ID    string `json:"id,omitempty"` // of a reservation
	Wants []ask  `json:"wants"`
}

type ask struct {
	Rule  string `json:"rule"`
	Key   string `json:"key"`
	Units int64  `json:"units"`
}

type told struct {
	Allowed bool   `json:"allowed"`
	Source  string `json:"source"`
	Wait    int64  `json:"wait_us"`
	Left    int64  `json:"left"`
	ID      string `json:"id,omitempty"` // to settle it, or to give it back
}

type settlement struct {
	ID     string `json:"id"`
	Actual *int64 `json:"actual,omitempty"` // left out: slots are given back
}

const (
	modeTake    = "take"
	modeLook    = "look"
	modeReserve = "reserve"
)

func (a *api) ask(ctx context.Context, mode, id string, what ...want) (answer, error) {
	q := question{Mode: mode, ID: id}
	for _, w := range what {
		q.Wants = append(q.Wants, ask{w.rule, w.key, w.units})
	}
	var t told
	if err := a.post(ctx, "/decisions", q, &t); err != nil {
		return answer{}, err
	}
	got := answer{allowed: t.Allowed, source: t.Source, wait: time.Duration(t.Wait) * time.Microsecond, left: t.Left}
	got.release = func(ctx context.Context) error { return a.post(ctx, "/settlements", settlement{ID: t.ID}, nil) }
	if mode == modeReserve && t.Allowed {
		got.settle = func(ctx context.Context, actual int64) error {
			return a.post(ctx, "/settlements", settlement{t.ID, &actual}, nil)
		}
	}
	return got, nil
}

func (a *api) take(ctx context.Context, what ...want) (answer, error) {
	return a.ask(ctx, modeTake, "", what...)
}

func (a *api) reserve(ctx context.Context, id string, what want) (answer, error) {
	return a.ask(ctx, modeReserve, id, what)
}

func (a *api) look(ctx context.Context, what want) (answer, error) {
	return a.ask(ctx, modeLook, "", what)
}

// post sends one request. After an error nobody knows whether it was heard.
func (a *api) post(ctx context.Context, path string, in, out any) error {
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.GetBody = nil // it is for this program to ask again
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%d %s", resp.StatusCode, bytes.TrimSpace(text))
	case out == nil:
		return nil
	}
	return json.Unmarshal(text, out)
}
