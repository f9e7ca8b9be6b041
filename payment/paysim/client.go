package paysim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/holdfast-dev/holdfast/payment"
)

// Client calls a Server over HTTP. It is a payment.Provider.
type Client struct {
	base string
	http *http.Client
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 1 << 16

// NewClient makes a client for the server at base, http://host:port. Deadlines are the caller's.
func NewClient(base string) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errors.New("paysim: the provider's URL is http://host:port")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	return &Client{base: strings.TrimRight(base, "/"), http: &http.Client{
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // money does not follow redirects
		},
	}}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Authorise implements payment.Provider.
func (c *Client) Authorise(ctx context.Context, ref string, amount int64, currency, source string) (payment.Result, error) {
	return c.post(ctx, "authorise", request{ref, amount, currency, source})
}

// Capture implements payment.Provider.
func (c *Client) Capture(ctx context.Context, ref string) (payment.Result, error) {
	return c.post(ctx, "capture", request{Ref: ref})
}

// Void implements payment.Provider.
func (c *Client) Void(ctx context.Context, ref string) (payment.Result, error) {
	return c.post(ctx, "void", request{Ref: ref})
}

// Refund implements payment.Provider.
func (c *Client) Refund(ctx context.Context, ref string) (payment.Result, error) {
	return c.post(ctx, "refund", request{Ref: ref})
}

// Lookup implements payment.Provider.
func (c *Client) Lookup(ctx context.Context, ref string) (payment.Result, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/payments/"+url.PathEscape(ref), nil)
	if err != nil {
		return payment.Result{}, fmt.Errorf("paysim: %w", err)
	}
	return c.do(req)
}

func (c *Client) post(ctx context.Context, op string, body request) (payment.Result, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return payment.Result{}, fmt.Errorf("paysim: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/v1/"+op, bytes.NewReader(data))
	if err != nil {
		return payment.Result{}, fmt.Errorf("paysim: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	return c.do(req)
}

func (c *Client) do(req *http.Request) (payment.Result, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return payment.Result{}, fmt.Errorf("paysim: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return payment.Result{}, fmt.Errorf("paysim: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return payment.Result{}, fmt.Errorf("paysim: the provider answers %s", resp.Status)
	}
	var a answer
	if err := json.Unmarshal(data, &a); err != nil || a.Status == "" {
		return payment.Result{}, fmt.Errorf("paysim: the provider's answer makes no sense: %.80q", data)
	}
	return payment.Result{Status: a.Status, Reason: a.Reason}, nil
}
