package replay

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

const combinedLine = `192.0.2.7 - ada [28/Nov/2026:10:00:00 +0100] "GET /a/b?c=d HTTP/1.1" 200 512 "https://example.com/" "a \"browser\""`

func TestCombined(t *testing.T) {
	type d = []ratelimit.Entry
	address, path := ratelimit.Entry{Key: "remote_address", Value: "192.0.2.7"}, ratelimit.Entry{Key: "path", Value: "/a/b"}
	want := Call{Time: time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC), Domain: "web", Hits: 1, Descriptors: []d{
		{address}, {path}, {address, path}, {{Key: "method", Value: "GET"}, path}, {{Key: "user", Value: "ada"}}}}
	got, err := Combined("web")([]byte(combinedLine))
	if got.Time = got.Time.UTC(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	common := strings.Replace(combinedLine[:strings.Index(combinedLine, ` "https`)], "ada", "-", 1)
	if got, err = Combined("web")([]byte(common)); err != nil || len(got.Descriptors) != 4 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, change := range [][2]string{
		{`"GET /a/b?c=d HTTP/1.1"`, `"-"`}, {"GET /a/b", "GET /a b"}, {"HTTP/1.1\"", "HTTP/1.1"}, {"Nov", "11"}, {" +0100", ""}, {"[", ""}, {"192.0.2.7 -", "192.0.2.7"},
		{"200", "2000"}, {"512", "many"}, {"2026", "1926"}, {"ada", "\xff"}, {combinedLine, ""},
	} {
		if got, err := Combined("web")([]byte(strings.Replace(combinedLine, change[0], change[1], 1))); err == nil {
			t.Errorf("%q for %q: %+v", change[1], change[0], got)
		}
	}
}

// A line that is read can be written again, and is the same.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"time":"2026-11-28T09:00:00.25Z","domain":"shop","descriptors":[[{"key":"tenant","value":"ada"}]],"hits":2,"took_ms":12.5}`))
	f.Add([]byte(`{"time":null,"descriptors":[null,[null]]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		c, err := JSON(line)
		if err != nil {
			return
		}
		if err := c.check(); err != nil || c.Took < 0 {
			t.Fatalf("%+v: %v", c, err)
		}
		out := jsonLine{Time: &c.Time, Domain: c.Domain, Hits: &c.Hits}
		for _, d := range c.Descriptors {
			var entries []jsonEntry
			for _, e := range d {
				entries = append(entries, jsonEntry(e))
			}
			out.Descriptors = append(out.Descriptors, entries)
		}
		text, err := json.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		again, err := JSON(text)
		if err != nil || !again.Time.Equal(c.Time) || again.Hits != c.Hits || !reflect.DeepEqual(again.Descriptors, c.Descriptors) {
			t.Fatalf("%+v became %+v, %v", c, again, err)
		}
	})
}

func FuzzCombined(f *testing.F) {
	f.Add([]byte(combinedLine))
	f.Add([]byte(`a b c [28/Nov/2026:10:00:00 +0100] "\" \\" 200 -`))
	f.Fuzz(func(t *testing.T, line []byte) {
		c, err := Combined("d")(line)
		if err != nil {
			return
		}
		if err := c.check(); err != nil || len(c.Descriptors) < 4 {
			t.Fatalf("%+v: %v", c, err)
		}
		for _, d := range c.Descriptors {
			for _, e := range d {
				if !strings.Contains(string(line), e.Value) {
					t.Fatalf("%q is not in the line", e.Value)
				}
			}
		}
	})
}

// Keys whose windows are over are forgotten, so a log may be as long as it wants; of those that are in use at a time there
// are no more than stated.
func TestRoomIsBounded(t *testing.T) {
	rules, err := ratelimit.NewRules(ratelimit.Rule{Name: "r", Quota: ratelimit.Quota{Limit: 1, Window: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	s := newSums(rules)
	status := func(i int) ratelimit.Status {
		return ratelimit.Status{Quota: ratelimit.Quota{Limit: 1, Window: time.Second},
			Request: ratelimit.Request{Domain: "default", Rule: "r", Key: fmt.Sprint(i), Cost: 1}}
	}
	at := time.Unix(1_800_000_000, 0)
	most := 0
	for i := range 100_000 { // a thousand keys a second
		if err := s.add(status(i), true, 1, at.Add(time.Duration(i)*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		most = max(most, len(s.bursts))
	}
	if most > 2*fewBursts {
		t.Errorf("%d windows were remembered", most)
	}
	s.most = 3 * fewBursts
	for i := 0; err == nil && i <= 2*s.most; i++ {
		err = s.add(status(i), true, 1, at.Add(time.Hour))
	}
	if err != ErrTooMuch || len(s.bursts) != s.most {
		t.Errorf("%d windows, %v", len(s.bursts), err)
	}
}

func TestProgress(t *testing.T) {
	rules, err := ratelimit.NewRules()
	if err != nil {
		t.Fatal(err)
	}
	var told []int64
	log := strings.Repeat(combinedLine+"\n", 3*looksAtClock)
	r, err := Run(t.Context(), rules, strings.NewReader(log), Options{Parse: Combined("d"), Progress: func(n int64) { told = append(told, n) }, every: 1})
	if err != nil || r.Unmatched != 3*looksAtClock || !reflect.DeepEqual(told, []int64{looksAtClock, 2 * looksAtClock, 3 * looksAtClock}) {
		t.Errorf("%v, %+v, %v", told, r, err)
	}
}
