package sqldb_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/sqldb"
)

func TestParseCursor(t *testing.T) {
	for text, ok := range map[string]bool{
		"0.0": true, "1.2": true, "9223372036854775807.9223372036854775807": true,
		"": false, ".": false, "1": false, "1.": false, ".1": false, "1.2.3": false, "-1.2": false, "1.-2": false,
		"+1.2": false, "01.2": false, "1.02": false, " 1.2": false, "1.2 ": false, "1,2": false, "0x1.2": false,
		"1_0.2": false, "9223372036854775808.0": false, "0.9223372036854775808": false, "1.2\x00": false, "١.2": false,
	} {
		c, err := sqldb.ParseCursor(text)
		if ok != (err == nil) || !ok && !errors.Is(err, sqldb.ErrConfig) || ok && c.String() != text {
			t.Errorf("%q: %v %v", text, c, err)
		}
	}
	if (sqldb.Cursor{}).String() != "0.0" {
		t.Error("the text of the beginning has changed; clients keep it")
	}
}

// A cursor goes out as text and comes back as the same cursor.
func FuzzParseCursor(f *testing.F) {
	for _, s := range []string{"0.0", "1.2", "7.007", "-1.1", "9223372036854775807.1", "1e3.4", "..", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := sqldb.ParseCursor(s)
		if err != nil {
			if c != (sqldb.Cursor{}) {
				t.Errorf("%q: refused, but %v", s, c)
			}
			return
		}
		if c.String() != s {
			t.Errorf("%q reads as %q", s, c)
		}
	})
}

func TestCursorOfEventsSurvivesText(t *testing.T) {
	db := onSQLite(t, sqldb.Options{})
	publish(t, db, "a", "1", "2", "3")
	rapid.Check(t, func(r *rapid.T) {
		events, err := db.Events(t.Context(), "a", sqldb.Cursor{}, rapid.IntRange(1, 3).Draw(r, "n"))
		if err != nil {
			r.Fatal(err)
		}
		for _, e := range events {
			if c, err := sqldb.ParseCursor(e.Cursor.String()); err != nil || c != e.Cursor {
				r.Fatal(c, err)
			}
		}
	})
}
