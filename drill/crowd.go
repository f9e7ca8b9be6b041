package drill

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// tooMany is how PostgreSQL refuses who finds no connection left.
const tooMany = "53300"

// crowd takes every connection of a PostgreSQL for a while, those that others have too. hit says
// whether there was a moment when nobody else had one.
func crowd(ctx context.Context, url string) (hit bool, err error) {
	pool, err := sql.Open("pgx", url+"&application_name=crowd")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, pool.Close()) }() // and with it every connection
	boss, err := pool.Conn(ctx)
	if err != nil {
		return false, err
	}
	// Connections are made slowly, and the servers make theirs meanwhile: it takes several turns.
	for began := time.Now(); (time.Since(began) < down || !hit) && time.Since(began) < 3*down && wait(ctx, 20*time.Millisecond); {
		if _, err := boss.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND application_name <> 'crowd'`); err != nil {
			return hit, err
		}
		if err := takeAll(ctx, pool); err != nil {
			return hit, err
		}
		var others int
		if err := boss.QueryRowContext(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND application_name <> 'crowd'`).Scan(&others); err != nil {
			return hit, err
		}
		hit = hit || others == 0
	}
	return hit, nil
}

// takeAll opens connections until there are no more. The pool has them until it is closed.
func takeAll(ctx context.Context, pool *sql.DB) error {
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
