package caller

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// apiTime bounds a request: a server that is gone is no reason to wait.
const apiTime = 300 * time.Millisecond

// api asks /v1/limits, as a program in another language does.
type api struct {
	url  string
	http *http.Client
}

func openAPI(o Options) limits {
	return &api{o.API + "/v1/limits", &http.Client{Timeout: apiTime, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}}
}

func (a *api) close(context.Context) error {
	a.http.CloseIdleConnections()
	return nil
}

func (a *api) live() int { return 0 } // the server is one process

// call is what is wanted, as it goes over the wire.
type call struct {
	Domain      string       `json:"domain"`
	Descriptors []descriptor `json:"descriptors"`
	Check       bool         `json:"check,omitempty"`
	Actual      []int64      `json:"actual,omitempty"`
}

type descriptor struct {
	Entries []entry `json:"entries"`
	Cost    int64   `json:"cost"`
}

type entry struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// decision is the answer, also where it is a refusal's problem.
type decision struct {
	Allowed bool   `json:"allowed"`
	Wait    int64  `json:"wait_ms"`
	Source  string `json:"source"`
	Limits  []struct {
		Remaining *int64 `json:"remaining"`
	} `json:"limits"`
}

func wanted(what ...want) (c call) {
	c.Domain = domain
	for _, w := range what {
		c.Descriptors = append(c.Descriptors, descriptor{[]entry{{w.rule, w.key}}, w.units})
	}
	return c
}

// take takes slots as a reservation: those can be given back.
func (a *api) take(ctx context.Context, what ...want) (answer, error) {
	if what[0].rule == slots {
		return a.reserve(ctx, rand.Text(), what[0])
	}
	return a.decide(ctx, http.MethodPost, "/decisions", wanted(what...))
}

func (a *api) look(ctx context.Context, what want) (answer, error) {
	c := wanted(what)
	c.Check = true
	return a.decide(ctx, http.MethodPost, "/decisions", c)
}

func (a *api) reserve(ctx context.Context, id string, what want) (answer, error) {
	at, c := "/reservations/"+id, wanted(what)
	got, err := a.decide(ctx, http.MethodPut, at, c)
	got.release = func(ctx context.Context) error {
		if got.source != fromStore { // the server has it in its memory alone, for as long as a lease
			return nil
		}
		return a.do(ctx, http.MethodPost, at+"/refunds", c, nil)
	}
	if got.allowed {
		got.settle = func(ctx context.Context, actual int64) error {
			c.Actual = []int64{actual}
			return a.do(ctx, http.MethodPost, at+"/commits", c, nil)
		}
	}
	return got, err
}

func (a *api) decide(ctx context.Context, method, path string, c call) (answer, error) {
	var d decision
	if err := a.do(ctx, method, path, c, &d); err != nil {
		return answer{}, err
	}
	got := answer{allowed: d.Allowed, source: d.Source, wait: time.Duration(d.Wait) * time.Millisecond}
	if len(d.Limits) > 0 && d.Limits[0].Remaining != nil {
		got.left = *d.Limits[0].Remaining
	}
	return got, nil
}

// do sends one request. After an error nobody knows whether it was heard. A refusal is an answer.
func (a *api) do(ctx context.Context, method, path string, in call, out *decision) error {
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.GetBody = nil // it is for this program to ask again
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	if out != nil && json.Unmarshal(text, out) == nil && out.Source != "" {
		want := http.StatusOK
		if !out.Allowed {
			want = http.StatusTooManyRequests
			if out.Source == "policy" {
				want = http.StatusServiceUnavailable
			}
		}
		if resp.StatusCode != want {
			return fmt.Errorf("%d, which is not what its text says: %s", resp.StatusCode, bytes.TrimSpace(text))
		}
		return nil
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%d %s", resp.StatusCode, bytes.TrimSpace(text))
	}
	return nil
}
