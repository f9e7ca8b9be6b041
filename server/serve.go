package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

// Limits of one connection. Slow clients cost a connection, and not for long.
const (
	readHeader = 5 * time.Second
	readAll    = 15 * time.Second
	writeAll   = 30 * time.Second
	idle       = 2 * time.Minute
	maxHeader  = 16 << 10
)

// drainTime is how long a server that ends goes on answering on connections that are open, each
// answer with Connection: close. A client whose connection is simply closed while it is idle
// can be sending its next request at that moment.
const drainTime = time.Second

// Listen binds an address, or takes the listener that was handed over: with LISTEN_PID and
// LISTEN_FDS as systemd sets them for socket activation, the first one (address is not used
// then). Connections that arrive between two servers wait in it, and none is refused. Without
// keys only this machine's own addresses are bound.
func Listen(address string, keys []Key) (net.Listener, error) {
	l, err := inherited()
	if err != nil {
		return nil, err
	}
	if l != nil {
		address = l.Addr().String()
	}
	err = CheckAddress(address, keys)
	switch {
	case err != nil && l != nil:
		return nil, errors.Join(err, l.Close())
	case err != nil:
		return nil, err
	case l != nil:
		return l, nil
	}
	return net.Listen("tcp", address)
}

// CheckAddress says whether Listen would bind address with these keys. It binds nothing.
func CheckAddress(address string, keys []Key) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("server: listen address: %w", err)
	}
	if len(keys) == 0 && !loopback(host) {
		return fmt.Errorf("server: %s is reachable from outside and there are no API keys: "+
			"make one with `holdfast key new NAME`, or listen on 127.0.0.1", address)
	}
	return nil
}

// inherited is the listener that was handed over, nil when there is none. The protocol is that
// of sd_listen_fds(3).
func inherited() (net.Listener, error) {
	const first = 3
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	if n, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err != nil || n < 1 {
		return nil, nil
	}
	f := os.NewFile(first, "listener")
	l, err := net.FileListener(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("server: the listener that was handed over: %w", err)
	}
	return l, nil
}

// Serve answers on l until ctx is done. Then it closes l, answers for a second more on the
// connections that are open and tells each to close, lets every request that has begun end
// within grace, and returns nil. An event stream ends at once: its client resumes elsewhere.
func (s *Server) Serve(ctx context.Context, l net.Listener, grace time.Duration) error {
	open := &openConns{all: map[net.Conn]bool{}}
	web := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: readHeader, ReadTimeout: readAll,
		WriteTimeout: writeAll, IdleTimeout: idle, MaxHeaderBytes: maxHeader, ConnState: open.changed,
	}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	if mutant.DrainOff {
		return errors.Join(web.Close(), unlessClosed(<-failed))
	}
	s.closing.Store(true)
	s.stop() // streams end, so that nobody waits for them
	err := errors.Join(l.Close(), unlessClosed(<-failed))
	open.none(drainTime)
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if e := web.Shutdown(ending); e != nil {
		err = errors.Join(err, fmt.Errorf("server: requests were cut off after %s: %w", grace, errors.Join(e, web.Close())))
	}
	return err
}

// openConns knows which connections are open.
type openConns struct {
	mu  sync.Mutex
	all map[net.Conn]bool
}

func (o *openConns) changed(c net.Conn, state http.ConnState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch state {
	case http.StateNew:
		o.all[c] = true
	case http.StateClosed, http.StateHijacked:
		delete(o.all, c)
	}
}

// none returns when no connection is open, or after a time.
func (o *openConns) none(within time.Duration) {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		o.mu.Lock()
		n := len(o.all)
		o.mu.Unlock()
		if n == 0 {
			return
		}
	}
}

// unlessClosed drops what http.Server says when it, or its listener, was closed on purpose.
func unlessClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
