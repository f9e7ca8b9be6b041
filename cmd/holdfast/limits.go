package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/ratelimit/envoy"
	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/store"
)

// limitFlags are a server's limits.
type limitFlags struct {
	Limits        []string      `help:"Rule files of limits, as envoyproxy/ratelimit reads them, one domain each; read again when they change, and at SIGHUP." type:"path" env:"HOLDFAST_LIMITS"`
	LimitsTimeout time.Duration `help:"Longest that a decision on limits waits for the store, before the rules' policies decide; below what Envoy waits (20 ms, if its filter does not say more)." default:"15ms" env:"HOLDFAST_LIMITS_TIMEOUT"`
	envoyFlags
}

// envoyFlags are where Envoy asks for limits.
type envoyFlags struct {
	LimitsGRPC string `name:"limits-grpc" help:"Address for Envoy's rate limit service (gRPC, envoy.service.ratelimit.v3), with the rules of --limits; otherwise there is none. Other than loopback needs API keys." env:"HOLDFAST_LIMITS_GRPC"`
}

var errNoLimits = errors.New("--limits-grpc needs --limits: there would be no rules")

// check says what is wrong, and what there is.
func (c limitFlags) check(keys []server.Key) (string, error) {
	rules, err := ratelimit.LoadRules(c.Limits...)
	switch {
	case err != nil:
		return "", err
	case len(c.Limits) == 0 && c.LimitsGRPC == "":
		return "none", nil
	case c.LimitsTimeout < time.Millisecond || c.LimitsTimeout > 10*time.Second:
		return "", fmt.Errorf("--limits-timeout %s is not in 1ms..10s", c.LimitsTimeout)
	}
	said := fmt.Sprintf("%d rules", rules.Len())
	if c.LimitsGRPC != "" {
		said += ", for Envoy at " + c.LimitsGRPC
	}
	return said, c.envoyFlags.check(c.Limits, keys)
}

func (c envoyFlags) check(files []string, keys []server.Key) error {
	switch {
	case c.LimitsGRPC == "":
		return nil
	case len(files) == 0:
		return errNoLimits
	}
	return server.CheckAddress(c.LimitsGRPC, keys)
}

// listen binds Envoy's address, if there is one.
func (c envoyFlags) listen(files []string, keys []server.Key) (net.Listener, error) {
	if err := c.check(files, keys); err != nil || c.LimitsGRPC == "" {
		return nil, err
	}
	l, err := net.Listen("tcp", c.LimitsGRPC)
	if err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	return l, nil
}

// openLimits makes a Limiter of rule files; nil without any.
func openLimits(s *store.Store, files []string, timeout time.Duration, calls *server.LimitCalls, logger *slog.Logger) (*ratelimit.Limiter, error) {
	if len(files) == 0 {
		return nil, nil
	}
	if s.Capabilities().Evicts {
		logger.Warn("the store's engine drops keys when its memory is full: limits forget what they counted; set maxmemory-policy noeviction")
	}
	rules, err := ratelimit.LoadRules(files...)
	if err != nil {
		return nil, err
	}
	return ratelimit.New(s, rules, ratelimit.Options{Timeout: timeout, Logger: logger, Observe: calls.Observe})
}

// envoyService is Envoy's rate limit service, for who has a key, if there are any.
func envoyService(l *ratelimit.Limiter, keys []server.Key, calls *server.EnvoyCalls, logger *slog.Logger) *envoy.Service {
	o := envoy.Options{Observe: calls.Observe, Logger: logger}
	if len(keys) > 0 {
		o.Authorize = func(field string) bool { return server.Owner(keys, field) != "" }
	}
	return envoy.New(l, o)
}

// closeLimits takes this process from those that share the limits.
func closeLimits(l *ratelimit.Limiter) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	return l.Close(ctx)
}
