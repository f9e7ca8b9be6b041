package sqldb

import (
	"fmt"
	"strconv"
	"strings"
)

// Cursor is a place in the outbox. It is comparable and opaque; the zero value is the
// beginning. Its text form is stable and may be kept by clients.
type Cursor struct{ position, id int64 }

// String is the text that ParseCursor reads.
func (c Cursor) String() string {
	return strconv.FormatInt(c.position, 10) + "." + strconv.FormatInt(c.id, 10)
}

// ParseCursor reads what String wrote and nothing else.
func ParseCursor(s string) (Cursor, error) {
	position, id, ok := strings.Cut(s, ".")
	p, err1 := strconv.ParseInt(position, 10, 64)
	i, err2 := strconv.ParseInt(id, 10, 64)
	c := Cursor{p, i}
	if !ok || err1 != nil || err2 != nil || p < 0 || i < 0 || c.String() != s {
		return Cursor{}, fmt.Errorf("%w: %.50q is not a cursor", ErrConfig, s)
	}
	return c, nil
}
