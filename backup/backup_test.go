package backup_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/backup"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

type countIn struct {
	Key string `store:"key"`
}
type countOut struct{ N int64 }

var (
	count = store.Decide("test.count", store.Lua(""), func(tx *store.Tx, in countIn) countOut { return countOut{tx.Incr(in.Key, 1)} })
	read  = store.Decide("test.read", store.Lua(""), func(tx *store.Tx, in countIn) countOut { return countOut{tx.Int(in.Key)} })
)

// place is a store and a database in a directory.
type place struct {
	*testing.T
	dir string
	st  *store.Store
	db  *sqldb.DB
}

func open(t *testing.T, dir string) *place {
	t.Helper()
	st, err := store.Open(t.Context(), "file:"+filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqldb.Open(t.Context(), "sqlite:"+filepath.Join(dir, "my.db"), sqldb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t, dir, st, db}
	t.Cleanup(p.close)
	return p
}

func (p *place) close() {
	if err := errors.Join(p.st.Close(), p.db.Close()); err != nil {
		p.Error(err)
	}
}

// both counts in the store first and then in the database, so the database is never ahead.
func (p *place) both(key string) {
	if _, err := count.Do(context.Background(), p.st, countIn{key}); err != nil {
		p.Error(err)
	}
	err := p.db.Write(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO t VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET n = n + 1`, key)
		return err
	})
	if err != nil {
		p.Error(err)
	}
}

func (p *place) numbers(key string) (inStore, inSQL int64) {
	p.Helper()
	out, err := read.Do(p.Context(), p.st, countIn{key})
	if err != nil {
		p.Fatal(err)
	}
	err = p.db.Read(p.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		return tx.Row(ctx, `SELECT COALESCE((SELECT n FROM t WHERE id = $1), 0)`, key).Scan(&inSQL)
	})
	if err != nil {
		p.Fatal(err)
	}
	return out.N, inSQL
}

func (p *place) prepare() {
	p.Helper()
	err := p.db.Write(p.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `CREATE TABLE t (id text PRIMARY KEY, n integer)`)
		return err
	})
	if err != nil {
		p.Fatal(err)
	}
}

// Backups are made while everybody writes; what each restores is one moment of both places.
func TestOneMoment(t *testing.T) {
	p := open(t, t.TempDir())
	p.prepare()
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	const callers = 4
	for i := range callers {
		all.Go(func() {
			for ctx.Err() == nil {
				p.both(fmt.Sprint(i))
			}
		})
	}
	for round := range 4 {
		dir := filepath.Join(p.dir, "backups", fmt.Sprint(round))
		var before [callers]int64
		for i := range before {
			_, before[i] = p.numbers(fmt.Sprint(i))
		}
		made, err := backup.Make(t.Context(), p.st, p.db, dir, "test")
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(p.dir, "restored", fmt.Sprint(round))
		restored, err := backup.Restore(t.Context(), dir, filepath.Join(to, "store"), filepath.Join(to, "my.db"))
		if err != nil {
			t.Fatal(err)
		}
		if restored.Bytes != made.Bytes || !restored.MadeAt.Equal(made.MadeAt) || len(restored.Files) != len(made.Files) {
			t.Errorf("made %+v, restored %+v", made, restored)
		}
		q := open(t, to)
		for i, was := range before {
			inStore, inSQL := q.numbers(fmt.Sprint(i))
			if inSQL < was || inStore < inSQL || inStore > inSQL+1 {
				t.Errorf("round %d, caller %d: %d in the store, %d in SQL, %d before", round, i, inStore, inSQL, was)
			}
		}
		q.both("0") // it can be used
	}
	stop()
	all.Wait()
	if left, err := filepath.Glob(filepath.Join(p.dir, "*", "*.partial-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q %v", left, err)
	}
}

// What is there is not overwritten, and what is damaged is not restored.
func TestRefusals(t *testing.T) {
	p := open(t, t.TempDir())
	p.prepare()
	p.both("k")
	dir := filepath.Join(p.dir, "b")
	if _, err := backup.Make(t.Context(), p.st, p.db, dir, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Make(t.Context(), p.st, p.db, dir, "test"); !errors.Is(err, backup.ErrExists) {
		t.Errorf("a second one of the name: %v", err)
	}
	mem, err := store.Open(t.Context(), "mem:", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	if _, err := backup.Make(t.Context(), mem, p.db, filepath.Join(p.dir, "m"), "test"); !errors.Is(err, store.ErrConfig) {
		t.Errorf("mem: %v", err)
	}
	if _, err := backup.Restore(t.Context(), dir, filepath.Join(p.dir, "store"), filepath.Join(p.dir, "new.db")); !errors.Is(err, backup.ErrExists) {
		t.Errorf("over a store: %v", err)
	}
	if _, err := backup.Restore(t.Context(), dir, filepath.Join(p.dir, "new"), filepath.Join(p.dir, "my.db")); !errors.Is(err, backup.ErrExists) {
		t.Errorf("over a database: %v", err)
	}
	// What cannot have both names is not given one of them.
	inside := filepath.Join(p.dir, "inside")
	if _, err := backup.Restore(t.Context(), dir, inside, filepath.Join(inside, "my.db")); err == nil {
		t.Error("a database in the store's directory")
	}
	if left, err := filepath.Glob(inside + "*"); err != nil || len(left) > 0 {
		t.Errorf("left: %q %v", left, err)
	}
	journal := filepath.Join(p.dir, "old.db")
	if err := os.WriteFile(journal+"-journal", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), dir, filepath.Join(p.dir, "new"), journal); !errors.Is(err, backup.ErrExists) {
		t.Errorf("beside the journal of another database: %v", err)
	}
	for _, c := range []struct {
		name string
		harm func(dir string) error
		want error
	}{
		{"no manifest", func(dir string) error { return os.Remove(filepath.Join(dir, "backup.json")) }, backup.ErrDamaged},
		{"a file is gone", func(dir string) error { return os.Remove(filepath.Join(dir, "holdfast.db")) }, backup.ErrDamaged},
		{"a byte differs", func(dir string) error { return turnByte(filepath.Join(dir, "holdfast.db"), 5000) }, backup.ErrDamaged},
		{"shorter", func(dir string) error { return os.Truncate(filepath.Join(dir, "holdfast.db"), 4096) }, backup.ErrDamaged},
		{"no JSON", func(dir string) error { return os.WriteFile(filepath.Join(dir, "backup.json"), []byte("{"), 0o600) }, backup.ErrDamaged},
		{"a newer format", edit(func(m *backup.Manifest) { m.Format = 2 }), backup.ErrNewer},
		{"a name that leads away", edit(func(m *backup.Manifest) { m.Files[0].Path = "../x" }), backup.ErrDamaged},
		{"a name from the root", edit(func(m *backup.Manifest) { m.Files[0].Path = "/x" }), backup.ErrDamaged},
		{"no store", edit(func(m *backup.Manifest) { m.Files = m.Files[:1] }), backup.ErrDamaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "b")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			if err := c.harm(copied); err != nil {
				t.Fatal(err)
			}
			to := t.TempDir()
			if _, err := backup.Restore(t.Context(), copied, filepath.Join(to, "store"), filepath.Join(to, "my.db")); !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			if left, err := os.ReadDir(to); err != nil || len(left) > 0 {
				t.Errorf("left: %v %v", left, err)
			}
		})
	}
}

func turnByte(file string, at int64) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	if err == nil {
		_, err = f.WriteAt([]byte{b[0] ^ 1}, at)
	}
	return errors.Join(err, f.Close())
}

func edit(change func(m *backup.Manifest)) func(dir string) error {
	return func(dir string) error {
		m, err := backup.Read(dir)
		if err != nil {
			return err
		}
		change(&m)
		data, err := json.Marshal(m)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "backup.json"), data, 0o600)
	}
}

// The manifest is read from a file that anybody may have written.
func FuzzRead(f *testing.F) {
	f.Add(`{"format":1,"files":[{"path":"holdfast.db","bytes":1,"sha256":"00"},{"path":"store/x"}]}`)
	f.Add(`{"format":1,"files":[{"path":"store/../holdfast.db"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "backup.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := backup.Read(dir)
		if err != nil {
			return
		}
		for _, x := range m.Files {
			if !filepath.IsLocal(filepath.FromSlash(x.Path)) || strings.Contains(x.Path, "..") && !strings.HasPrefix(filepath.Base(x.Path), "..") {
				t.Errorf("%q leads away", x.Path)
			}
		}
	})
}
