package drill

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// place is where a run's data lies: nobody else's data is touched, and all of it is cleared
// away.
type place struct {
	id    string // of this run
	dir   string // temporary: logs, ready files, the embedded engines
	store string // URL for the servers
	db    string // URL for the servers
	undo  []func(ctx context.Context) error
}

func newPlace(ctx context.Context, store, db string) (pl *place, err error) {
	var id [5]byte
	_, _ = rand.Read(id[:]) // never fails
	pl = &place{id: "drill-" + hex.EncodeToString(id[:])}
	if pl.dir, err = os.MkdirTemp("", "holdfast-"+pl.id+"-"); err != nil {
		return nil, fmt.Errorf("drill: %w", err)
	}
	if err = os.Mkdir(pl.disk(), 0o700); err == nil {
		err = pl.placeStore(store)
	}
	if err == nil {
		err = pl.placeDB(ctx, db)
	}
	if err != nil {
		return nil, errors.Join(err, pl.clear(ctx, false))
	}
	return pl, nil
}

// disk is where the embedded engines are that are nobody else's.
func (pl *place) disk() string { return filepath.Join(pl.dir, "disk") }

// placeStore gives the run a directory or a key prefix of its own.
func (pl *place) placeStore(raw string) error {
	switch {
	case raw == "":
		pl.store = "file:" + filepath.Join(pl.disk(), "store")
	case strings.HasPrefix(raw, "mem:"):
		pl.store = raw
	case isRemote(raw):
		var err error
		if pl.store, err = withPrefix(raw, pl.id+":"); err != nil {
			return err
		}
		pl.undo = append(pl.undo, func(ctx context.Context) error { return dropKeys(ctx, pl.store) })
	default: // file:
		dir := filepath.Join(localPath(raw, "file:"), pl.id)
		pl.store = "file:" + dir
		pl.undo = append(pl.undo, func(context.Context) error { return os.RemoveAll(dir) })
	}
	return nil
}

// placeDB gives the run a file or a schema of its own.
func (pl *place) placeDB(ctx context.Context, raw string) error {
	switch {
	case raw == "":
		pl.db = "sqlite:" + filepath.Join(pl.disk(), "drill.db")
		return nil
	case !isPostgres(raw):
		file := localPath(raw, "sqlite:") + "." + pl.id
		pl.db = "sqlite:" + file
		pl.undo = append(pl.undo, func(context.Context) error { return removeSQLite(file) })
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("drill: the database's URL cannot be parsed")
	}
	schema := strings.ReplaceAll(pl.id, "-", "_")
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	pl.db = u.String()
	if err := execute(ctx, raw, `CREATE SCHEMA `+schema); err != nil {
		return err
	}
	pl.undo = append(pl.undo, func(ctx context.Context) error {
		return execute(ctx, raw, `DROP SCHEMA `+schema+` CASCADE`)
	})
	return nil
}

// localPath is the path that a file: or sqlite: URL names.
func localPath(raw, scheme string) string {
	path := strings.TrimPrefix(raw, scheme)
	if strings.HasPrefix(path, "///") {
		path = path[2:]
	}
	return path
}

func removeSQLite(file string) (err error) {
	for _, more := range []string{"", "-wal", "-shm", ".lock"} {
		if e := os.Remove(file + more); !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// clear takes everything away; with keep the directory stays.
func (pl *place) clear(ctx context.Context, keep bool) (err error) {
	for i := len(pl.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, pl.undo[i](ctx))
	}
	if !keep {
		err = errors.Join(err, os.RemoveAll(pl.dir))
	}
	if err != nil {
		return fmt.Errorf("drill: clearing up: %w", err)
	}
	return nil
}
