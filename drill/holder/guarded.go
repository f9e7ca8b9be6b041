package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/drill/web"
	"github.com/holdfast-dev/holdfast/lock/guard"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// GuardedOptions of Serve.
type GuardedOptions struct {
	DB    string // URL of the table's database
	Dir   string // of the files and their fences
	Ready func(net.Listener) error
}

// fenceLife is longer than any holder of a drill is late.
const fenceLife = 24 * time.Hour

const maxText = 1 << 10

// guarded is the resources.
type guarded struct {
	db     *sqldb.DB
	fences *store.Store
	dir    string
	files  sync.Mutex
}

// Serve has a table and files written under guard, until ctx is done. Each write is appended, so that
// the order of acceptance is there to be read: rows have a number that grows, files have lines.
func Serve(ctx context.Context, o GuardedOptions) (err error) {
	db, err := sqldb.Open(ctx, o.DB, sqldb.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.Migrate(ctx, sqldb.Core(), guard.Migrations()); err != nil {
		return err
	}
	err = db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS guarded_writes (
			resource TEXT NOT NULL, n BIGINT NOT NULL, token BIGINT NOT NULL, owner TEXT NOT NULL, text TEXT NOT NULL,
			PRIMARY KEY (resource, n))`)
		return err
	})
	if err != nil {
		return err
	}
	fences, err := store.Open(ctx, "file:"+filepath.Join(o.Dir, "fences"), store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fences.Close()) }()
	g := &guarded{db: db, fences: fences, dir: o.Dir}
	mux := http.NewServeMux()
	mux.Handle("POST /rows/{name}", guard.HTTP(logged(g.row)))
	mux.Handle("POST /files/{name}", guard.HTTP(logged(g.line)))
	return web.Serve(ctx, "127.0.0.1:0", mux, o.Ready, writeTime, func() error { return nil })
}

type write = func(w http.ResponseWriter, r *http.Request, f guard.Fence) error

// logged says what a write failed of, when that is not its fence.
func logged(fn write) write {
	return func(w http.ResponseWriter, r *http.Request, f guard.Fence) error {
		err := fn(w, r, f)
		if err != nil && !errors.Is(err, guard.ErrStale) && !errors.Is(err, guard.ErrInvalid) {
			fmt.Fprintln(os.Stderr, r.URL.Path, err)
		}
		return err
	}
}

// row is a write to the table, in the transaction of its guard.
func (g *guarded) row(_ http.ResponseWriter, r *http.Request, f guard.Fence) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxText))
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	return g.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		if err := guard.Check(ctx, tx, name, f); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO guarded_writes (resource, n, token, owner, text)
			SELECT $1, coalesce(max(n), 0) + 1, $2, $3, $4 FROM guarded_writes WHERE resource = $1`,
			name, f.Token, f.Owner, string(text))
		return err
	})
}

// line is a write to a file: the fence is noted first, and nothing else writes in between. A server
// that dies there has a fence and no line: too much is refused then, never too little.
func (g *guarded) line(_ http.ResponseWriter, r *http.Request, f guard.Fence) (err error) {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxText))
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	g.files.Lock()
	defer g.files.Unlock()
	if err := guard.Put(r.Context(), g.fences, name, f, text, fenceLife); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(g.dir, filepath.Base(name)+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "%d %s %s\n", f.Token, f.Owner, text)
	return errors.Join(err, file.Close())
}
