package sqldb

import (
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	lockTimeout = time.Second
	dialTimeout = 5 * time.Second
	// goneCheck is how long a statement of a process that has died goes on to wait, or to keep others waiting.
	goneCheck   = 100 * time.Millisecond
	goneSetting = "client_connection_check_interval" // since PostgreSQL 14
)

func openPostgres(rawURL string, opts Options) (*DB, error) {
	opts, err := opts.withDefaults(PostgreSQL)
	if err != nil {
		return nil, err
	}
	cfg, err := parsePostgres(rawURL)
	if err != nil {
		return nil, err
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = min(dialTimeout, opts.Timeout)
	}
	unlimited := cfg.Copy()
	setDefaults(cfg, map[string]string{
		"application_name": "holdfast",
		// The server gives up a little earlier than we do, so that a slow statement
		// ends with an answer and not with a dead connection.
		"statement_timeout":                   millis(opts.Timeout - opts.Timeout/10),
		"lock_timeout":                        millis(lockTimeout),
		"idle_in_transaction_session_timeout": millis(opts.Timeout + commitGrace),
		goneSetting:                           millis(goneCheck),
		// A plan that was made while a table was small reads all of it, and is kept while
		// the table grows. Every statement here has an index to go by.
		"enable_seqscan": "off",
		// Before PostgreSQL 18 that makes the few plans that do read all of a table so dear that it would compile each
		// of them, for a tenth of a second of processor, on every connection that comes to run one.
		"jit": "off",
	})
	setDefaults(unlimited, map[string]string{
		"application_name":                    "holdfast migrate",
		"statement_timeout":                   "0",
		"lock_timeout":                        millis(10 * lockTimeout),
		"idle_in_transaction_session_timeout": "0",
	})
	if cfg.RuntimeParams[goneSetting] == "0" {
		delete(cfg.RuntimeParams, goneSetting) // a server or a pooler that does not know it is not asked
	}
	pool := newPool(stdlib.OpenDB(*cfg), opts.MaxConns)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	pool.SetConnMaxLifetime(30 * time.Minute) // finds its way back after a failover
	return &DB{
		dialect:  PostgreSQL,
		opts:     opts,
		writer:   pool,
		reader:   pool,
		migrator: func() *sql.DB { return stdlib.OpenDB(*unlimited) },
		release:  func() error { return nil },
	}, nil
}

func parsePostgres(rawURL string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(rawURL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err) // pgx leaves the password out
	}
	return cfg, nil
}

func setDefaults(cfg *pgx.ConnConfig, params map[string]string) {
	for name, value := range params {
		if _, set := cfg.RuntimeParams[name]; !set {
			cfg.RuntimeParams[name] = value
		}
	}
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
