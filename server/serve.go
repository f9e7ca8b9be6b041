package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Limits of one connection. Slow clients cost a connection, and not for long.
const (
	readHeader = 5 * time.Second
	readAll    = 15 * time.Second
	writeAll   = 30 * time.Second
	idle       = 2 * time.Minute
	maxHeader  = 16 << 10
)

// Listen binds an address. Without keys only this machine's own addresses are bound.
func Listen(address string, keys []Key) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("server: listen address: %w", err)
	}
	if len(keys) == 0 && !loopback(host) {
		return nil, fmt.Errorf("server: %s is reachable from outside and there are no API keys: "+
			"make one with `holdfast key new NAME`, or listen on 127.0.0.1", address)
	}
	return net.Listen("tcp", address)
}

// Serve answers on l until ctx is done; then it takes no new connection, lets every request
// that has begun end within grace, and returns nil. An event stream ends at once: its client
// resumes elsewhere.
func (s *Server) Serve(ctx context.Context, l net.Listener, grace time.Duration) error {
	web := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: readHeader, ReadTimeout: readAll,
		WriteTimeout: writeAll, IdleTimeout: idle, MaxHeaderBytes: maxHeader,
	}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.closing.Store(true)
	s.stop() // streams end, so that Shutdown does not wait for them
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := web.Shutdown(ending)
	if err != nil {
		err = fmt.Errorf("server: requests were cut off after %s: %w", grace, errors.Join(err, web.Close()))
	}
	return errors.Join(err, unlessClosed(<-failed))
}

// unlessClosed drops what http.Server says when it was closed on purpose.
func unlessClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
