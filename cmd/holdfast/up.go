package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/payment/paysim"
	"github.com/holdfast-dev/holdfast/server"
)

type upCmd struct {
	Listen string   `help:"Address to listen on; loopback only, unless --config has API keys." default:"127.0.0.1:8080" env:"HOLDFAST_LISTEN"`
	Data   string   `help:"Directory of the data." default:"holdfast-data" type:"path" env:"HOLDFAST_DATA"`
	Config string   `help:"File with API keys (see 'holdfast key new')." type:"path" env:"HOLDFAST_CONFIG"`
	Nodes  int      `help:"Keep permits on so many nodes (3 or 5), each with a Valkey or Redis of its own (it has to be installed), instead of in this process." default:"0"`
	Limits []string `help:"Rule files of limits, for /v1/limits; read again when they change." type:"path" env:"HOLDFAST_LIMITS"`
	Faults bool     `help:"Let the simulated provider be late, time out and refuse, as in a bad night." default:"true" negatable:""`
}

func (c *upCmd) Run(e *env) (err error) {
	if c.Nodes != 0 && c.Nodes != 3 && c.Nodes != 5 {
		return fmt.Errorf("--nodes is 3 or 5, not %d: with 3 one may be lost, with 5 two", c.Nodes)
	}
	cfg, err := readConfig(c.Config)
	if err != nil {
		return err
	}
	l, err := server.Listen(c.Listen, cfg.Keys)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return errors.Join(fmt.Errorf("data directory: %w", err), l.Close())
	}
	p, err := startProvider(filepath.Join(c.Data, "provider.jsonl"), c.rates())
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, p.close()) }()
	where := "file:" + filepath.Join(c.Data, "store")
	if c.Nodes > 0 {
		nodes, err := startNodes(e.ctx, c.Data, c.Nodes, e.logger)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		defer func() { err = errors.Join(err, nodes.close()) }()
		where = nodes.url
	}
	storm := &storm{base: "http://" + l.Addr().String(), logger: e.logger}
	cfgServer := server.Config{Keys: cfg.Keys, BackupDir: filepath.Join(c.Data, "backups")}
	if len(cfg.Keys) == 0 { // the storm has no key
		cfgServer.Storm = storm.start
	}
	n, err := open(e.ctx, shopConfig{
		store: where, db: "sqlite:" + filepath.Join(c.Data, "holdfast.db"),
		provider: p.url, providerTimeout: time.Second, server: cfgServer, logger: e.logger,
		limits: c.Limits, limitsTimeout: upLimitsTimeout,
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, n.close()) }()
	storm.sales = n.sales
	defer storm.wait()
	if err := demo(e.ctx, n.sales); err != nil {
		return errors.Join(err, l.Close())
	}
	fmt.Fprintf(e.out, "\n  Holdfast is at  http://%s/\n  its API at      http://%s/openapi.json\n  its data in     %s\n  Ctrl-C ends it. The payment provider is simulated: no money moves.\n\n",
		l.Addr(), l.Addr(), c.Data)
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	storm.ctx = ctx
	return n.server.Serve(ctx, l, grace)
}

// upLimitsTimeout is longer than that of 'serve': everything shares one machine's disk.
const upLimitsTimeout = 100 * time.Millisecond

func (c *upCmd) rates() paysim.Rates {
	if c.Faults {
		return paysim.Standard()
	}
	return nil
}

// demo opens a sale to look at. It is there again after a restart.
func demo(ctx context.Context, sales *flashsale.Sales) error {
	_, err := sales.Create(ctx, flashsale.NewSale{
		ID: "demo", Name: "Demo: 100 sneakers", Stock: 100, Price: 12900, Currency: "EUR", PerBuyer: 2, HoldSeconds: 60,
	})
	if err != nil {
		return fmt.Errorf("demo sale: %w", err)
	}
	return nil
}

// provider is the simulated provider inside this process, on an address of its own.
type provider struct {
	url    string
	sim    *paysim.Server
	web    *http.Server
	served chan error
}

func startProvider(log string, rates paysim.Rates) (*provider, error) {
	sim, err := paysim.New(paysim.Options{Log: log, Rates: rates, Seed: uint64(time.Now().UnixNano())})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, sim.Close())
	}
	p := &provider{
		url: "http://" + l.Addr().String(), sim: sim, served: make(chan error, 1),
		web: &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute},
	}
	go func() { p.served <- p.web.Serve(l) }()
	return p, nil
}

func (p *provider) close() error {
	return errors.Join(p.web.Close(), unlessClosed(<-p.served), p.sim.Close())
}
