package sqldb

import (
	"database/sql/driver"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Rows is a parameter of many rows, for List. Values are strings, integers, booleans, nil and
// Bytes.
type Rows [][]any

// Add appends a row.
func (r *Rows) Add(values ...any) { *r = append(*r, values) }

// Value implements driver.Valuer. Text that is not UTF-8 is ErrConfig: JSON would change it.
func (r Rows) Value() (driver.Value, error) {
	if len(r) == 0 {
		return "[]", nil
	}
	for _, row := range r {
		for _, v := range row {
			if text, ok := v.(string); ok && !utf8.ValidString(text) {
				return nil, fmt.Errorf("%w: text that is not UTF-8: %.40q", ErrConfig, text)
			}
		}
	}
	b, err := json.Marshal([][]any(r))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return string(b), nil
}

// Bytes is a value of a column of bytes.
type Bytes []byte

// MarshalText writes b as List reads it.
func (b Bytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, b), nil }

// List makes a table of a parameter of Rows, called list, for statements that take many at
// once:
//
//	var rows sqldb.Rows
//	rows.Add("a", 1)
//	rows.Add("b", 2)
//	tx.Exec(ctx, `INSERT INTO units (id, n) SELECT id, n FROM `+tx.List("$1", "id text", "n bigint"), rows)
//
// Columns are a name and a type: text, bigint, boolean or bytea. The statement's text does not
// depend on how many rows there are, and they come in their order.
func (t *Tx) List(param string, columns ...string) string {
	out := make([]string, len(columns))
	for i, c := range columns {
		name, typ, _ := strings.Cut(c, " ")
		value := fmt.Sprintf("value->>%d", i)
		switch {
		case typ == "bytea" && t.db.dialect == SQLite:
			value = "unhex(" + value + ")"
		case typ == "bytea":
			value = "decode(" + value + ", 'hex')"
		case t.db.dialect == PostgreSQL:
			value = "(" + value + ")::" + typ
		}
		out[i] = value + " AS " + name
	}
	from := "json_each(" + param + ")"
	if t.db.dialect == PostgreSQL {
		from = "jsonb_array_elements(" + param + "::jsonb)" // json would be read again for each column
	}
	return "(SELECT " + strings.Join(out, ", ") + " FROM " + from + ") AS list"
}
