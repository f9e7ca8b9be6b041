package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/lock"
	"github.com/holdfast-dev/holdfast/payment"
	"github.com/holdfast-dev/holdfast/payment/paysim"
	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// grace is how long what has begun may take to end.
const grace = 15 * time.Second

// shop is one server with all that it stands on.
type shop struct {
	store    *store.Store
	db       *sqldb.DB
	provider *paysim.Client
	sales    *flashsale.Sales
	payments *payment.Payments
	server   *server.Server
	limits   *ratelimit.Limiter // nil without rules
	undo     []func() error     // in the order of opening; closed in reverse
}

type shopConfig struct {
	store, db, provider string
	maxConns            int
	providerTimeout     time.Duration
	limits              []string // rule files
	limitsTimeout       time.Duration
	limitsAtHUP         bool // they are read again at SIGHUP too
	server              server.Config
	logger              *slog.Logger
}

// open starts a shop. On an error whatever was opened is closed.
func open(ctx context.Context, c shopConfig) (n *shop, err error) {
	n = &shop{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	c.server.Decisions = server.NewDecisions()
	if n.store, err = store.Open(ctx, c.store, store.Options{Logger: c.logger, Observe: c.server.Decisions.Observe}); err != nil {
		return n, err
	}
	n.undo = append(n.undo, n.store.Close)
	if c.server.Locks, err = n.locks(c.logger); err != nil {
		return n, err
	}
	c.server.LimitCalls = server.NewLimitCalls()
	rulesRead := contentOf(c.limits)
	if n.limits, err = openLimits(n.store, c.limits, c.limitsTimeout, c.server.LimitCalls, c.logger); err != nil {
		return n, err
	}
	if n.limits != nil {
		c.server.Limits = n.limits
		n.undo = append(n.undo, func() error { return closeLimits(n.limits) })
		n.undo = append(n.undo, watchLimits(n.limits, c.limits, rulesRead, c.limitsAtHUP, c.server.LimitCalls.Reloaded, c.logger))
	}
	if n.db, err = sqldb.Open(ctx, c.db, sqldb.Options{MaxConns: c.maxConns, Logger: c.logger}); err != nil {
		return n, err
	}
	n.undo = append(n.undo, n.db.Close)
	if err = n.db.Migrate(ctx, flashsale.Schema()...); err != nil {
		return n, err
	}
	if n.provider, err = paysim.NewClient(c.provider); err != nil {
		return n, err
	}
	n.undo = append(n.undo, func() error { n.provider.Close(); return nil })
	return n, n.start(ctx, c)
}

// locks are none on an engine that may drop them.
func (n *shop) locks(logger *slog.Logger) (*lock.Locker, error) {
	if n.store.Capabilities().Evicts {
		logger.Warn("the store's engine drops keys when its memory is full: there are no locks; set maxmemory-policy noeviction")
		return nil, nil
	}
	l, err := lock.New(n.store, lock.Options{Logger: logger})
	if err != nil {
		return nil, err
	}
	n.undo = append(n.undo, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		return l.Close(ctx)
	})
	return l, nil
}

// start begins what works in the background.
func (n *shop) start(ctx context.Context, c shopConfig) (err error) {
	if n.sales, err = flashsale.New(n.store, n.db, flashsale.Options{Logger: c.logger}); err != nil {
		return err
	}
	n.undo = append(n.undo, n.sales.Close)
	if err = n.sales.Start(ctx); err != nil {
		return err
	}
	n.payments, err = payment.New(n.db, n.provider, n.sales, payment.Options{ProviderTimeout: c.providerTimeout, Logger: c.logger})
	if err != nil {
		return err
	}
	n.undo = append(n.undo, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		return n.payments.Close(ctx)
	})
	n.payments.Start()
	c.server.Store, c.server.DB, c.server.Sales, c.server.Payments = n.store, n.db, n.sales, n.payments
	c.server.Logger, c.server.Version = c.logger, version()
	if n.server, err = server.New(c.server); err != nil {
		return err
	}
	n.undo = append(n.undo, n.server.Close)
	return nil
}

func (n *shop) close() (err error) {
	for i := len(n.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, n.undo[i]())
	}
	n.undo = nil
	return err
}

// announce writes the address to a file, whole or not at all, for scripts that wait for it.
func announce(file string, l net.Listener) error {
	if file == "" {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".ready-*")
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	_, err = fmt.Fprintln(tmp, l.Addr())
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("ready file: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}
