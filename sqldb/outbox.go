package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Bounds of the outbox.
const (
	MaxTopic   = 200     // bytes of a topic, and of a kind
	MaxPayload = 1 << 16 // bytes of a payload
	MaxEvents  = 1000    // events of one call
)

// Event is a row of the outbox: what a committed transaction published.
type Event struct {
	Cursor  Cursor // where to go on after this event
	Topic   string
	Kind    string
	Payload []byte
	At      int64 // when it was published, µs by the engine's clock
}

// Publish writes an event that readers see when, and only when, the transaction
// commits.
func (t *Tx) Publish(ctx context.Context, topic, kind string, payload []byte) error {
	return t.PublishAll(ctx, Event{Topic: topic, Kind: kind, Payload: payload})
}

// PublishAll is Publish for many. Of each event it takes Topic, Kind and Payload.
func (t *Tx) PublishAll(ctx context.Context, events ...Event) error {
	var list Rows
	for _, e := range events {
		if e.Topic == "" || len(e.Topic) > MaxTopic || e.Kind == "" || len(e.Kind) > MaxTopic || len(e.Payload) > MaxPayload {
			return fmt.Errorf("%w: an event has a topic and a kind of 1..%d bytes and a payload of at most %d",
				ErrConfig, MaxTopic, MaxPayload)
		}
		list.Add(e.Topic, e.Kind, Bytes(e.Payload))
	}
	if len(list) == 0 {
		return nil
	}
	_, err := t.Exec(ctx, `INSERT INTO outbox (topic, kind, payload, at) SELECT topic, kind, payload, holdfast_now() FROM `+
		t.List("$1", "topic text", "kind text", "payload bytea"), list)
	return err
}

// Events returns at most limit (1..1000) events of topic that follow after, oldest
// first. Following by the last one's cursor gives every event once and skips none, also
// when transactions commit in another order than they wrote. An event that follows from
// another (its transaction began when the other had committed) comes after it.
//
// PostgreSQL: an event appears when every transaction of the cluster that wrote and
// began earlier has ended, so a long one delays it.
func (db *DB) Events(ctx context.Context, topic string, after Cursor, limit int) ([]Event, error) {
	var events []Event
	err := db.Read(ctx, func(ctx context.Context, tx *Tx) error {
		events = nil
		rows, err := tx.Query(ctx, db.outbox().events, topic, after.position, after.id, min(max(limit, 1), MaxEvents))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			e := Event{Topic: topic}
			if err := rows.Scan(&e.Cursor.position, &e.Cursor.id, &e.Kind, &e.Payload, &e.At); err != nil {
				return err
			}
			events = append(events, e)
		}
		return rows.Err()
	})
	return events, err
}

// LastCursor is the cursor of topic's newest event: following it gives only what is
// published from now on. Zero when there is no event.
func (db *DB) LastCursor(ctx context.Context, topic string) (Cursor, error) {
	var c Cursor
	err := db.Read(ctx, func(ctx context.Context, tx *Tx) error {
		rows, err := tx.Query(ctx, db.outbox().last, topic)
		if err != nil {
			return err
		}
		defer rows.Close()
		c = Cursor{}
		for rows.Next() {
			if err := rows.Scan(&c.position, &c.id); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return c, err
}

// OutboxLag is the age of the oldest event that was committed and that Events does not show yet,
// because a transaction that began earlier is still running; 0 when Events shows all of them.
// On SQLite it does.
func (db *DB) OutboxLag(ctx context.Context) (time.Duration, error) {
	if db.dialect == SQLite {
		return 0, nil
	}
	var micros int64
	err := db.Read(ctx, func(ctx context.Context, tx *Tx) error {
		return tx.Row(ctx, `SELECT greatest(0, coalesce(holdfast_now() - min(at), 0)) FROM outbox WHERE position >= `+horizon).Scan(&micros)
	})
	return time.Duration(micros) * time.Microsecond, err
}

// TrimEvents deletes at most limit events that are older than that, and says how many.
// Whoever has not read them by then misses them.
func (db *DB) TrimEvents(ctx context.Context, olderThan time.Duration, limit int) (int64, error) {
	var n int64
	err := db.Write(ctx, func(ctx context.Context, tx *Tx) (err error) {
		n, err = tx.Exec(ctx, db.outbox().trim, olderThan.Microseconds(), max(limit, 0))
		return err
	})
	return n, err
}

// outboxSQL is what differs between the engines. On PostgreSQL the horizon is the oldest
// transaction that is still running: everything below has ended and is visible, so
// nothing can appear there later. A cursor from beyond the newest transaction is of a
// future that a restore took back: its reader gets everything again, rather than nothing
// until that future is reached.
type outboxSQL struct{ events, last, trim string }

func (db *DB) outbox() outboxSQL {
	if db.dialect == SQLite {
		return outboxSQL{
			events: `SELECT 0, id, kind, payload, at FROM outbox
				WHERE topic = $1 AND $2 >= 0
				AND id > CASE WHEN $3 <= (SELECT seq FROM sqlite_sequence WHERE name = 'outbox') THEN $3 ELSE 0 END
				ORDER BY id LIMIT $4`,
			last: `SELECT 0, id FROM outbox WHERE topic = $1 ORDER BY id DESC LIMIT 1`,
			trim: `DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE at < holdfast_now() - $1 ORDER BY at LIMIT $2)`,
		}
	}
	return outboxSQL{
		events: `SELECT position, id, kind, payload, at FROM outbox
			WHERE topic = $1
			AND (position, id) > (CASE WHEN $2::bigint < ` + newest + ` THEN $2::bigint ELSE 0 END, $3::bigint)
			AND position < ` + horizon + `
			ORDER BY position, id LIMIT $4`,
		last: `SELECT position, id FROM outbox WHERE topic = $1 AND position < ` + horizon + `
			ORDER BY position DESC, id DESC LIMIT 1`,
		trim: `DELETE FROM outbox WHERE (position, id) IN (SELECT position, id FROM outbox
			WHERE at < holdfast_now() - $1::bigint ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)`,
	}
}

const (
	horizon = `(pg_snapshot_xmin(pg_current_snapshot())::text::bigint + holdfast_outbox_shift())`
	newest  = `(pg_snapshot_xmax(pg_current_snapshot())::text::bigint + holdfast_outbox_shift())`
)

// restoreGap is how far positions jump when a restore is noticed: more transactions than
// the old cluster can have made between the backup and its end.
const restoreGap = 1 << 32

// moveOutboxOn notices a dump that was restored into a cluster which has counted fewer
// transactions: rows seem to be of the future. It shifts the positions to come behind
// them, so that new events follow old ones and every cursor stays good. It runs under
// the lock of Migrate, before the program writes.
func (db *DB) moveOutboxOn(ctx context.Context, pool *sql.DB) error {
	var last, next, xid int64
	err := pool.QueryRowContext(ctx, `SELECT coalesce(max(position), 0), `+newest+`,
		pg_snapshot_xmax(pg_current_snapshot())::text::bigint FROM outbox`).Scan(&last, &next, &xid)
	if err != nil || last < next {
		return db.classify(err)
	}
	db.opts.Logger.WarnContext(ctx, "sqldb: the outbox was restored from another cluster; positions move on",
		"newest", last, "cluster", next)
	_, err = pool.ExecContext(ctx, fmt.Sprintf(`CREATE OR REPLACE FUNCTION holdfast_outbox_shift() RETURNS bigint
		LANGUAGE sql STABLE PARALLEL SAFE AS 'SELECT %d::bigint'`, last-xid+restoreGap))
	return db.classify(err)
}
