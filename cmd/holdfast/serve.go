package main

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dev/holdfast/server"
)

type serveCmd struct {
	serveFlags
	ReadyFile string `help:"Write the address to this file when the server is ready." type:"path"`
}

// serveFlags is what a server stands on.
type serveFlags struct {
	Listen          string        `help:"Address to listen on. Other than loopback needs API keys." default:"127.0.0.1:8080" env:"HOLDFAST_LISTEN"`
	Store           string        `help:"Store: file:DIR, redis://…, rediss://…, redis-cluster://…, redis-sentinel://… (rediss-… with TLS), holdfast://HOST:PORT,HOST:PORT, unix:PATH (?prefix=, ?class=b), mem:." required:"" env:"HOLDFAST_STORE"`
	DB              string        `name:"db" help:"Database: postgres://… or sqlite:FILE." required:"" env:"HOLDFAST_DB"`
	DBConns         int           `name:"db-conns" help:"Most database connections; 0: 16 on PostgreSQL." default:"0" env:"HOLDFAST_DB_CONNS"`
	Provider        string        `help:"Payment provider: http://host:port that speaks the protocol of 'holdfast provider'." required:"" env:"HOLDFAST_PROVIDER"`
	ProviderTimeout time.Duration `help:"Longest wait for one answer of the provider." default:"3s" env:"HOLDFAST_PROVIDER_TIMEOUT"`
	Config          string        `help:"File with API keys (see 'holdfast key new')." type:"path" env:"HOLDFAST_CONFIG"`
	limitFlags
	BackupDir string `help:"Where 'holdfast backup' has this server put backups; for file: with SQLite." type:"path" env:"HOLDFAST_BACKUP_DIR"`
}

func (c *serveCmd) Run(e *env) (err error) {
	cfg, err := readConfig(c.Config)
	if err != nil {
		return err
	}
	l, err := server.Listen(c.Listen, cfg.Keys) // before anything is opened: it fails soonest
	if err != nil {
		return err
	}
	forEnvoy, err := c.envoyFlags.listen(c.Limits, cfg.Keys)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	var calls *server.EnvoyCalls
	if forEnvoy != nil {
		calls = server.NewEnvoyCalls()
	}
	n, err := open(e.ctx, shopConfig{
		store: c.Store, db: c.DB, provider: c.Provider, maxConns: c.DBConns, providerTimeout: c.ProviderTimeout,
		limits: c.Limits, limitsTimeout: c.LimitsTimeout, limitsAtHUP: true,
		server: server.Config{Keys: cfg.Keys, BackupDir: c.BackupDir, EnvoyCalls: calls}, logger: e.logger,
	})
	if err != nil {
		return errors.Join(err, l.Close(), closeListener(forEnvoy))
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if err := announce(c.ReadyFile, l); err != nil {
		return errors.Join(err, l.Close(), closeListener(forEnvoy))
	}
	e.logger.Info("serving", "address", l.Addr().String(), "store_class", n.store.Class().String(), "version", version())
	all, ctx := errgroup.WithContext(e.ctx) // when one fails, the other ends in order
	all.Go(func() error { return n.server.Serve(ctx, l, grace) })
	if forEnvoy != nil {
		e.logger.Info("serving Envoy's rate limit service", "address", forEnvoy.Addr().String())
		all.Go(func() error { return envoyService(n.limits, cfg.Keys, calls, e.logger).Serve(ctx, forEnvoy, grace) })
	}
	err = all.Wait()
	e.logger.Info("stopped taking requests; finishing what has begun")
	return err
}

// closeListener closes one that there may not be.
func closeListener(l net.Listener) error {
	if l == nil {
		return nil
	}
	return l.Close()
}
