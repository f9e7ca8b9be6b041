// Package web serves what processes of a drill ask over HTTP.
package web

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Serve serves until ctx is done, then lets what has begun end for as long as grace, and closes what it stood on.
func Serve(ctx context.Context, listen string, handler http.Handler, ready func(net.Listener) error, grace time.Duration, done func() error) (err error) {
	defer func() { err = errors.Join(err, done()) }()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	if err := ready(l); err != nil {
		return errors.Join(err, l.Close())
	}
	web := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- web.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err = web.Shutdown(clean)
	if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}
