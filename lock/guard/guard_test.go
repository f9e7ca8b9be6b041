package guard_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/lock/guard"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

func TestMain(m *testing.M) {
	if at := os.Getenv(holderStore); at != "" {
		if err := holds(at, os.Getenv(holderDB)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	sqldbtest.Main(m)
}

func ready(t *testing.T, db *sqldb.DB) {
	t.Helper()
	if err := db.Migrate(t.Context(), sqldb.Core(), guard.Migrations()); err != nil {
		t.Fatal(err)
	}
	err := db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `CREATE TABLE accepted (n BIGINT PRIMARY KEY, token BIGINT NOT NULL)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// write is one guarded write, which notes the order of acceptance in the table itself.
func write(ctx context.Context, db *sqldb.DB, f guard.Fence) error {
	return db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		if err := guard.Check(ctx, tx, "seat 14B", f); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO accepted SELECT count(*), $1 FROM accepted`, f.Token)
		return err
	})
}

func TestSQLTakesNoOlderToken(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		ready(t, db)
		done := make(chan error)
		for i := range 8 {
			go func() {
				for n := range 25 {
					f := guard.Fence{Token: 1 + rand.Int64N(int64(20+20*n)), Owner: fmt.Sprint("w", i)}
					if err := write(t.Context(), db, f); err != nil && !errors.Is(err, guard.ErrStale) {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range 8 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		var accepted, back int64
		err := db.Read(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			if err := tx.Row(ctx, `SELECT count(*) FROM accepted`).Scan(&accepted); err != nil {
				return err
			}
			return tx.Row(ctx, `SELECT count(*) FROM accepted a JOIN accepted b ON b.n = a.n + 1 WHERE b.token < a.token`).Scan(&back)
		})
		if err != nil || accepted < 5 || back > 0 {
			t.Errorf("%d writes, %d went back, %v", accepted, back, err)
		}
	})
}

func TestSQLRefusesAnotherOwnerOfTheSameToken(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		ready(t, db)
		for _, c := range []struct {
			f    guard.Fence
			want error
		}{
			{guard.Fence{Token: 7, Owner: "a"}, nil}, {guard.Fence{Token: 7, Owner: "a"}, nil},
			{guard.Fence{Token: 7, Owner: "b"}, guard.ErrStale}, {guard.Fence{Token: 6, Owner: "a"}, guard.ErrStale},
			{guard.Fence{Token: 8, Owner: "b"}, nil}, {guard.Fence{Token: 0}, guard.ErrInvalid}, {guard.Fence{Token: 1 << 60}, guard.ErrInvalid},
		} {
			if err := write(t.Context(), db, c.f); !errors.Is(err, c.want) {
				t.Errorf("%+v: %v", c.f, err)
			}
		}
	})
}

func TestSequenceGrows(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		ready(t, db)
		draw, last := guard.Sequence(db), int64(0)
		for range 20 {
			token, err := draw(t.Context())
			if err != nil || token <= last {
				t.Fatal(token, last, err)
			}
			last = token
		}
	})
}

func TestStoreTakesNoOlderToken(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		put := func(token int64, owner, value string) error {
			return guard.Put(t.Context(), s, "seat 14B", guard.Fence{Token: token, Owner: owner}, []byte(value), time.Hour)
		}
		for _, c := range []struct {
			token       int64
			owner, want string
			err         error
		}{
			{5, "a", "5a", nil}, {4, "b", "5a", guard.ErrStale}, {5, "b", "5a", guard.ErrStale}, {5, "a", "5a", nil}, {6, "b", "6b", nil}, {5, "a", "6b", guard.ErrStale},
		} {
			if err := put(c.token, c.owner, fmt.Sprint(c.token, c.owner)); !errors.Is(err, c.err) {
				t.Errorf("%+v: %v", c, err)
			}
			if v, _, err := guard.Get(t.Context(), s, "seat 14B"); err != nil || strings.ReplaceAll(string(v), " ", "") != c.want {
				t.Errorf("%+v: there is %q, %v", c, v, err)
			}
		}
		if err := guard.Put(t.Context(), s, "big", guard.Fence{Token: 1}, make([]byte, 2<<20), time.Hour); !errors.Is(err, guard.ErrInvalid) {
			t.Errorf("2 MiB: %v", err)
		}
	})
}

func TestHTTP(t *testing.T) {
	s, err := store.Open(t.Context(), "mem:", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	h := guard.HTTP(func(w http.ResponseWriter, r *http.Request, f guard.Fence) error {
		if g, ok := guard.From(r.Context()); !ok || g != f {
			t.Errorf("context has %+v", g)
		}
		return guard.Put(r.Context(), s, r.URL.Path, f, nil, time.Hour)
	})
	for _, c := range []struct {
		headers []string
		want    int
	}{
		{[]string{"5"}, 200}, {[]string{"4"}, 409}, {[]string{`5; owner="a"`}, 409}, {[]string{`6; owner="a"`}, 200}, {[]string{`6;owner="b"`}, 409},
		{nil, 428}, {[]string{"7", "8"}, 428}, {[]string{""}, 400}, {[]string{"-1"}, 400}, {[]string{"7; owner=a"}, 400}, {[]string{`7; "a"`}, 400}, {[]string{"7;"}, 400},
		{[]string{strings.Repeat("9", 100)}, 400},
	} {
		r := httptest.NewRequest("PUT", "/seat", nil)
		r.Header[guard.Header] = c.headers
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want || c.want >= 400 && w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%q: %d %s", c.headers, w.Code, w.Body)
		}
	}
}

func TestHeaderTravels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := guard.Fence{Token: rapid.Int64Range(1, 1<<53).Draw(t, "token"), Owner: rapid.StringMatching(`[ -~]{0,60}`).Draw(t, "owner")}
		if got, err := guard.Parse(f.String()); err != nil || got != f {
			t.Errorf("%q: %+v, %v", f.String(), got, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(`12; owner="a"`)
	f.Fuzz(func(t *testing.T, s string) {
		if fence, err := guard.Parse(s); err == nil {
			if again, err := guard.Parse(fence.String()); err != nil || again != fence {
				t.Errorf("%q became %+v, then %+v, %v", s, fence, again, err)
			}
		}
	})
}
