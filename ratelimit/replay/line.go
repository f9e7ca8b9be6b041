package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

// Call is one line of a log: what a caller wanted, and when.
type Call struct {
	Time        time.Time
	Domain      string
	Descriptors [][]ratelimit.Entry
	// Hits is how many units it wanted of each rule.
	Hits int64
	// Took is how long it held slots of concurrency; 0: nobody gave them back, and they end with their lease.
	Took time.Duration
}

// Parse reads one line without its end. Errors say what is wrong; nothing is guessed.
type Parse func(line []byte) (Call, error)

// Bounds of a line; those of the HTTP API.
const (
	MaxLine        = 64 << 10
	maxDescriptors = 64
	maxEntries     = 16
	maxKey         = 256
	maxDomain      = 128
	maxHits        = 1_000_000_000
	maxTook        = 24 * time.Hour
)

// Times that an engine can count with.
var (
	earliest = time.Unix(0, 0).AddDate(0, 0, 1)
	latest   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// jsonLine is a line as it is written.
type jsonLine struct {
	Time        *time.Time    `json:"time"`
	Domain      string        `json:"domain"`
	Descriptors [][]jsonEntry `json:"descriptors"`
	Hits        *int64        `json:"hits"`
	Took        *float64      `json:"took_ms"`
}

type jsonEntry struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// JSON reads a line as the package comment shows it. Fields that it does not know are errors, so that a name with a typing
// mistake is not taken for one that was left out.
func JSON(line []byte) (c Call, err error) {
	if !utf8.Valid(line) {
		return c, errors.New("is not UTF-8")
	}
	var in jsonLine
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return c, fmt.Errorf("is not a call in JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return c, errors.New("has more than one JSON object")
	}
	if in.Time == nil {
		return c, errors.New("has no time")
	}
	c = Call{Time: *in.Time, Domain: in.Domain, Hits: 1}
	if in.Hits != nil {
		c.Hits = *in.Hits
	}
	if in.Took != nil {
		if *in.Took < 0 || *in.Took > float64(maxTook.Milliseconds()) {
			return c, fmt.Errorf("has a took_ms of %v, not 0..%d", *in.Took, maxTook.Milliseconds())
		}
		c.Took = time.Duration(*in.Took * float64(time.Millisecond))
	}
	for _, entries := range in.Descriptors {
		descriptor := make([]ratelimit.Entry, len(entries))
		for i, e := range entries {
			descriptor[i] = ratelimit.Entry(e)
		}
		c.Descriptors = append(c.Descriptors, descriptor)
	}
	return c, c.check()
}

func (c Call) check() error {
	switch {
	case c.Time.Before(earliest) || !c.Time.Before(latest):
		return fmt.Errorf("has a time that is not in 1970..2199: %s", c.Time.Format(time.RFC3339))
	case c.Domain == "" || len(c.Domain) > maxDomain:
		return fmt.Errorf("has a domain that is not 1..%d bytes", maxDomain)
	case c.Hits < 1 || c.Hits > maxHits:
		return fmt.Errorf("has %d hits, not 1..%d", c.Hits, maxHits)
	case len(c.Descriptors) == 0 || len(c.Descriptors) > maxDescriptors:
		return fmt.Errorf("has %d descriptors, not 1..%d", len(c.Descriptors), maxDescriptors)
	}
	for i, d := range c.Descriptors {
		if len(d) == 0 || len(d) > maxEntries {
			return fmt.Errorf("has %d entries in descriptor %d, not 1..%d", len(d), i, maxEntries)
		}
		for _, e := range d {
			if e.Key == "" || len(e.Key) > maxKey {
				return fmt.Errorf("has a key in descriptor %d that is not 1..%d bytes", i, maxKey)
			}
		}
	}
	return nil
}

// Combined reads the common and the combined log format of web servers. A line is a call of the domain with these descriptors,
// of which those count that rules are for:
//
//	[remote_address]  [path]  [remote_address path]  [method path]  [user], if there is one
//
// The path is the request's target without its query. It has one hit; how long it took is not in this format.
func Combined(domain string) Parse {
	return func(line []byte) (c Call, err error) {
		if !utf8.Valid(line) {
			return c, errors.New("is not UTF-8")
		}
		f, err := fields(string(line))
		if err != nil {
			return c, err
		}
		at, err := time.Parse("02/Jan/2006:15:04:05 -0700", f.time)
		if err != nil {
			return c, fmt.Errorf("has the time %.40q, not one like 10/Oct/2000:13:55:36 -0700", f.time)
		}
		request := strings.Split(f.request, " ")
		if len(request) != 3 || request[0] == "" || request[1] == "" || !strings.HasPrefix(request[2], "HTTP/") {
			return c, fmt.Errorf("has the request %.60q, not METHOD TARGET HTTP/x", f.request)
		}
		path, _, _ := strings.Cut(request[1], "?")
		address, where := ratelimit.Entry{Key: "remote_address", Value: f.host}, ratelimit.Entry{Key: "path", Value: path}
		c = Call{Time: at, Domain: domain, Hits: 1, Descriptors: [][]ratelimit.Entry{
			{address}, {where}, {address, where}, {{Key: "method", Value: request[0]}, where},
		}}
		if f.user != "-" {
			c.Descriptors = append(c.Descriptors, []ratelimit.Entry{{Key: "user", Value: f.user}})
		}
		return c, c.check()
	}
}

type logFields struct{ host, user, time, request string }

var errNotCombined = errors.New(`is not like: HOST IDENT USER [TIME] "REQUEST" STATUS BYTES`)

// fields are those of a line: host ident user [time] "request" status bytes, and what else there is.
func fields(line string) (f logFields, err error) {
	who, rest, found := strings.Cut(line, " [")
	names := strings.SplitN(who, " ", 3) // a user's name may have spaces
	if !found || len(names) != 3 || names[0] == "" || names[2] == "" {
		return f, errNotCombined
	}
	f.host, f.user = names[0], names[2]
	if f.time, rest, found = strings.Cut(rest, `] "`); !found {
		return f, errNotCombined
	}
	end := quoteEnd(rest)
	if end < 0 {
		return f, errNotCombined
	}
	f.request = rest[:end]
	after := strings.Fields(rest[end+1:])
	if len(after) < 2 || len(after[0]) != 3 || !number(after[0]) || after[1] != "-" && !number(after[1]) {
		return f, errNotCombined
	}
	return f, nil
}

// quoteEnd is where the quote ends that has begun; a backslash takes the next byte along. -1: it does not.
func quoteEnd(s string) int {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

func number(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
