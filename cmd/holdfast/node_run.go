package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/holdfast-dev/holdfast/replica"
)

// Run runs the node.
func (c *nodeRunCmd) Run(e *env) error { return c.run(e, c.Join) }

// run runs the node, again and again as long as it ends because its disk is full.
func (c *nodeFlags) run(e *env, join []string) (err error) {
	processors()
	ops := &replica.Ops{}
	ops.Set(nil, "starting")
	stop, err := serveOps(c.Metrics, ops)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for e.ctx.Err() == nil {
		err := c.once(e, join, ops)
		if err == nil {
			return nil
		}
		ops.Set(nil, "the disk is full")
		if err := replica.Await(e.ctx, replica.Config{Dir: c.Dir, Logger: e.logger}, err); err != nil && e.ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// serveOps serves metrics and health, if an address was given.
func serveOps(address string, ops *replica.Ops) (stop func() error, err error) {
	if address == "" {
		return func() error { return nil }, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--metrics: %w", err)
	}
	s := &http.Server{Handler: ops, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			_ = s.Close() // who did not end by now is cut off
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, nil
}

// nodeJoinCmd is `node` with --join, as many would look for it.
type nodeJoinCmd struct {
	Cluster []string `arg:"" name:"address" help:"Addresses of nodes, as given by their --raft."`
	nodeFlags
}

// Run runs the node.
func (c *nodeJoinCmd) Run(e *env) error {
	return c.run(e, c.Cluster)
}
