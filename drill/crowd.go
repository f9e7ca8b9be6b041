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
	"golang.org/x/sync/errgroup"
)

// How PostgreSQL refuses who finds no connection left, and what it tells who was ended by another.
const (
	tooMany = "53300"
	endedBy = "57P01"
)

// crowd ends every connection to a PostgreSQL and takes all that can be had, for a while. The servers
// fight for theirs: hit says whether the log has refusals that are not the drill's own.
func crowd(ctx context.Context, db *engine) (hit bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*down)
	defer cancel()
	pool, err := sql.Open("pgx", db.url+"&application_name=crowd")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	boss, err := pool.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, boss.Close()) }()
	before, over := refusals(db.log), time.Now().Add(down)
	var own atomic.Int64
	all, ctx := errgroup.WithContext(ctx)
	for range takers {
		all.Go(func() error { return takeAll(ctx, pool, over, &own) })
	}
	all.Go(func() error {
		for time.Now().Before(over) && wait(ctx, 20*time.Millisecond) {
			if _, err := boss.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE backend_type = 'client backend' AND application_name <> 'crowd'`); err != nil {
				return err
			}
		}
		return nil
	})
	err = all.Wait()
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

// takeAll opens connections and holds them until it is over; when there are no more it goes on, so that what a server loses is
// taken before it comes back. own counts the refusals.
func takeAll(ctx context.Context, pool *sql.DB, over time.Time, own *atomic.Int64) (err error) {
	var taken []*sql.Conn
	defer func() {
		for _, c := range taken {
			err = errors.Join(err, c.Close()) // the pool keeps a few, and ends with the fault
		}
	}()
	for time.Now().Before(over) {
		c, err := pool.Conn(ctx)
		refused, _ := errors.AsType[*pgconn.PgError](err)
		switch {
		case err == nil:
			taken = append(taken, c)
		case refused != nil && refused.Code == tooMany:
			own.Add(1)
			wait(ctx, 5*time.Millisecond)
		case refused != nil && refused.Code == endedBy: // before it could say its name
		default:
			return err
		}
	}
	return nil
}
