package main

import (
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/holdfast-dev/holdfast/payment/paysim"
)

// provider is the simulated payment provider: no money moves. A real one is an implementation
// of payment.Provider, five methods, in place of the client.
type provider struct {
	client *paysim.Client
	sim    *paysim.Server
	web    *http.Server
	served chan error
}

func startProvider(log string) (*provider, error) {
	sim, err := paysim.New(paysim.Options{Log: log})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, sim.Close())
	}
	client, err := paysim.NewClient("http://" + l.Addr().String())
	if err != nil {
		return nil, errors.Join(err, l.Close(), sim.Close())
	}
	p := &provider{client, sim, &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: 5 * time.Second}, make(chan error, 1)}
	go func() { p.served <- p.web.Serve(l) }()
	return p, nil
}

func (p *provider) close() error {
	p.client.Close()
	err := p.web.Close()
	if served := <-p.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return errors.Join(err, p.sim.Close())
}
