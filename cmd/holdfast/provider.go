package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/holdfast-dev/holdfast/payment/paysim"
)

type providerCmd struct {
	Listen    string `help:"Address to listen on." default:"127.0.0.1:8090"`
	Log       string `help:"Its own log, one line for all that it did; created or continued." required:"" type:"path"`
	Seed      uint64 `help:"Of the shuffled deck of faults." default:"1"`
	Faults    string `help:"none, standard, or how many of 100 requests get which, as JSON: {\"late\":4,\"timeout\":3}." default:"none"`
	ReadyFile string `help:"Write the address to this file when it is ready." type:"path"`
}

func (c *providerCmd) rates() (rates paysim.Rates, err error) {
	switch c.Faults {
	case "none", "":
		return nil, nil
	case "standard":
		return paysim.Standard(), nil
	}
	if err := json.Unmarshal([]byte(c.Faults), &rates); err != nil {
		return nil, fmt.Errorf("--faults is neither none nor standard nor JSON: %w", err)
	}
	return rates, nil
}

func (c *providerCmd) Run(e *env) (err error) {
	rates, err := c.rates()
	if err != nil {
		return err
	}
	sim, err := paysim.New(paysim.Options{Log: c.Log, Rates: rates, Seed: c.Seed})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sim.Close()) }()
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	if err := announce(c.ReadyFile, l); err != nil {
		return errors.Join(err, l.Close())
	}
	e.logger.Info("simulated provider: no money moves", "address", l.Addr().String(), "log", c.Log)
	web := &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- web.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-e.ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	return errors.Join(web.Shutdown(ending), unlessClosed(<-served))
}

// unlessClosed drops what http.Server says when it was closed on purpose.
func unlessClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
