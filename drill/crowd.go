package drill

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// tooMany is how PostgreSQL refuses who finds no connection left.
const tooMany = "53300"

// crowd ends every connection to a PostgreSQL and takes all that can be had, for a while. The servers
// fight for theirs: hit says whether the log has refusals that are not the drill's own.
func crowd(ctx context.Context, db *engine) (hit bool, err error) {
	pool, err := sql.Open("pgx", db.url+"&application_name=crowd")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, pool.Close()) }() // and with it every connection
	boss, err := pool.Conn(ctx)
	if err != nil {
		return false, err
	}
	own := refusals(db.log)
	for over := time.Now().Add(down); time.Now().Before(over) && wait(ctx, 20*time.Millisecond); {
		if _, err := boss.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND application_name <> 'crowd'`); err != nil {
			return false, err
		}
		if err := takeAll(ctx, pool); err != nil {
			return false, err
		}
		own += takers
	}
	return refusals(db.log) > own, nil
}

// refusals counts who was told that there is no connection left.
func refusals(log string) int {
	text, err := os.ReadFile(log)
	if err != nil {
		return 0
	}
	return strings.Count(string(text), "too many clients already")
}

// takers open connections at the same time: the servers do, too.
const takers = 8

// takeAll opens connections until there are no more. The pool has them until it is closed.
func takeAll(ctx context.Context, pool *sql.DB) error {
	failed := make(chan error, takers)
	for range takers {
		go func() { failed <- takeSome(ctx, pool) }()
	}
	var err error
	for range takers {
		err = errors.Join(err, <-failed)
	}
	return err
}

func takeSome(ctx context.Context, pool *sql.DB) error {
	for {
		_, err := pool.Conn(ctx)
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == tooMany {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
