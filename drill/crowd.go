package drill

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"sync/atomic"
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
	before, over := refusals(db.log), time.Now().Add(down)
	var own atomic.Int64
	failed := make(chan error, takers)
	for range takers {
		go func() { failed <- takeAll(ctx, pool, over, &own) }()
	}
	for time.Now().Before(over) && wait(ctx, 20*time.Millisecond) {
		_, ended := boss.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND application_name <> 'crowd'`)
		err = errors.Join(err, ended)
	}
	for range takers {
		err = errors.Join(err, <-failed)
	}
	return int64(refusals(db.log)-before) > own.Load(), err
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

// takeAll opens connections, and goes on when there are no more: what a server loses is taken before it comes back. The pool has
// them until it is closed. own counts the refusals.
func takeAll(ctx context.Context, pool *sql.DB, over time.Time, own *atomic.Int64) error {
	for time.Now().Before(over) {
		_, err := pool.Conn(ctx)
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == tooMany {
			own.Add(1)
			wait(ctx, 5*time.Millisecond)
		} else if err != nil {
			return err
		}
	}
	return nil
}
