package replay_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/ratelimit/replay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start is where windows of all lengths up to an hour begin.
var start = time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)

func rules(t testing.TB, descriptors string) *ratelimit.Rules {
	t.Helper()
	set, err := ratelimit.ParseRules(ratelimit.File{Name: "rules", Text: []byte("domain: d\ndescriptors:\n" + descriptors)})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// line is a call of one descriptor, some ms after the start.
func line(ms int64, key, more string) string {
	return fmt.Sprintf(`{"time":%q,"domain":"d","descriptors":[[{"key":%q,"value":"v"}]]%s}`, start.Add(time.Duration(ms)*time.Millisecond).Format(time.RFC3339Nano), key, more)
}

func check(t testing.TB, set *ratelimit.Rules, lines ...string) *replay.Report {
	t.Helper()
	r, err := replay.Run(t.Context(), set, strings.NewReader(strings.Join(lines, "\n")), replay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// verdicts says for each line what became of it, from reports over the log's beginnings: A admitted, R refused, W admitted by a
// shadow that would have refused.
func verdicts(t testing.TB, set *ratelimit.Rules, lines []string) (said string, last *replay.Report) {
	t.Helper()
	last = check(t, set)
	for n := range lines {
		r := check(t, set, lines[:n+1]...)
		sum := func(r *replay.Report) (n int64) { return r.Rules[0].WouldRefuse }
		switch {
		case sum(r) > sum(last):
			said += "W"
		case r.Refused > last.Refused:
			said += "R"
		case r.Admitted > last.Admitted:
			said += "A"
		default:
			said += "?"
		}
		last = r
	}
	return said, last
}

// Small logs whose verdicts can be counted by hand.
func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		name, rule string
		at         []int64  // ms
		more       []string // of the lines, in order
		want       string
		worst      int64
	}{
		{"fixed window", `{unit: second, requests_per_unit: 2}`, []int64{0, 900, 950, 1000, 1100, 1999}, nil, "AARAAR", 3},
		{"token bucket", `{unit: second, requests_per_unit: 2, algorithm: token-bucket}`, []int64{0, 0, 0, 499, 500, 1000, 1000}, nil, "AARRAAR", 5},
		{"leaky bucket", `{unit: second, requests_per_unit: 2, algorithm: leaky-bucket}`, []int64{0, 0, 0, 499, 500, 1000, 1000}, nil, "AARRAAR", 5},
		{"sliding counter", `{unit: second, requests_per_unit: 2, algorithm: sliding-counter}`, []int64{0, 100, 200, 1000, 1500, 1600, 2500, 2501}, nil, "AARRARAR", 3},
		{"sliding log", `{unit: second, requests_per_unit: 2, algorithm: sliding-log}`, []int64{0, 500, 999, 1000, 1499, 1500}, nil, "AARARA", 3},
		{"concurrency", `{requests_per_unit: 2, algorithm: concurrency, lease: 10s}`, []int64{0, 0, 500, 1000, 1050, 1100, 9999, 10000},
			[]string{`,"took_ms":1000`, "", "", `,"took_ms":100`, "", "", "", ""}, "AARARARA", 7},
		{"hits", `{unit: second, requests_per_unit: 5}`, []int64{0, 1, 2}, []string{`,"hits":3`, `,"hits":3`, `,"hits":2`}, "ARA", 8},
		{"a day", `{unit: day, requests_per_unit: 1}`, []int64{0, 53_999_999, 54_000_000, 54_000_001}, nil, "ARAR", 2},
		{"blocked", `{unit: second, requests_per_unit: 0}`, []int64{0, 1}, nil, "RR", 2},
		{"unlimited", `{unlimited: true}`, []int64{0, 1, 1000}, nil, "AAA", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var lines []string
			for i, ms := range c.at {
				more := ""
				if c.more != nil {
					more = c.more[i]
				}
				lines = append(lines, line(ms, "k", more))
			}
			said, r := verdicts(t, rules(t, "  - {key: k, rate_limit: "+c.rule+"}\n"), lines)
			if said != c.want {
				t.Errorf("verdicts %s, by hand %s", said, c.want)
			}
			one := r.Rules[0]
			if one.Asked != int64(len(lines)) || one.Admitted+one.Refused != one.Asked || one.Worst.Units != c.worst || one.Worst.Key != "v" {
				t.Errorf("%+v, worst %+v", one, one.Worst)
			}
			if first := strings.IndexByte(said, 'R'); first >= 0 && (one.First.Line != int64(first+1) || !one.First.Time.Equal(start.Add(time.Duration(c.at[first])*time.Millisecond))) {
				t.Errorf("the first refusal: %+v", one.First)
			}
		})
	}
}

func TestShadow(t *testing.T) {
	set := rules(t, "  - {key: k, shadow_mode: true, rate_limit: {unit: second, requests_per_unit: 1}}\n")
	said, r := verdicts(t, set, []string{line(0, "k", ""), line(1, "k", ""), line(1000, "k", "")})
	if one := r.Rules[0]; said != "AWA" || r.Refused != 0 || r.Admitted != 3 || one.WouldRefuse != 1 || one.Admitted != 2 || !one.Shadow || one.First.Line != 2 {
		t.Errorf("%s %+v", said, r)
	}
}

// A call is decided whole: what one rule refuses is counted by none. What no rule is for is told, and so is a call that the
// limiter would not have taken.
func TestSeveralRules(t *testing.T) {
	set := rules(t, "  - {key: a, rate_limit: {unit: day, requests_per_unit: 1}}\n  - {key: b, rate_limit: {unit: day, requests_per_unit: 2}}\n  - {key: c, rate_limit: {unit: day, requests_per_unit: 1}}\n")
	both := strings.Replace(line(0, "a", ""), "]]", `],[{"key":"b","value":"v"}]]`, 1)
	r := check(t, set, both, both, both, line(1, "b", ""), line(1, "b", ""), line(1, "z", ""), line(1, "a", `,"hits":2`))
	a, b, c := r.Rules[0], r.Rules[1], r.Rules[2]
	if a.Asked != 3 || a.Admitted != 1 || a.Refused != 2 || a.ByOthers != 0 || a.First.Line != 2 {
		t.Errorf("%+v", a)
	}
	if b.Asked != 5 || b.Admitted != 2 || b.Refused != 1 || b.ByOthers != 2 || b.First.Line != 5 || b.Worst.Units != 5 {
		t.Errorf("%+v", b)
	}
	if c.Asked != 0 || c.Worst != nil || c.First != nil {
		t.Errorf("%+v", c)
	}
	if r.Lines != 7 || r.Unmatched != 1 || r.Admitted != 2 || r.Refused != 3 || r.Invalid.Calls != 1 || r.Invalid.Line != 7 || !strings.Contains(r.Invalid.Why, "Cost") {
		t.Errorf("%+v %+v", r, r.Invalid)
	}
}

// Leases go by the process's clock; in a log all rules are decided by the store, so a budget is admitted to its last unit.
func TestLeasedRulesAreStrict(t *testing.T) {
	set := rules(t, "  - {key: k, rate_limit: {unit: day, requests_per_unit: 400, leased: 100}}\n")
	r := check(t, set, slices.Repeat([]string{line(0, "k", "")}, 500)...)
	if r.Admitted != 400 || r.Refused != 100 || r.Rules[0].First.Line != 401 {
		t.Errorf("%+v", r.Rules[0])
	}
}

// What is wrong ends the check with its line. Nothing is guessed.
func TestBadLines(t *testing.T) {
	set := rules(t, "  - {key: k, rate_limit: {unit: day, requests_per_unit: 4}}\n")
	good := line(5, "k", "")
	for name, bad := range map[string]string{
		"nothing": "", "no JSON": "x", "half": good[:len(good)-1], "two": good + good, "null": "null", "a list": "[]",
		"no time": `{"domain":"d","descriptors":[[{"key":"k"}]]}`, "another time": strings.Replace(good, "T", " ", 1),
		"long ago": strings.Replace(good, "2026", "1969", 1), "far away": strings.Replace(good, "2026", "2200", 1),
		"no domain": strings.Replace(good, `"domain":"d",`, "", 1), "no descriptors": `{"time":"2026-11-28T09:00:01Z","domain":"d"}`,
		"an empty descriptor": strings.Replace(good, `[[{"key":"k","value":"v"}]]`, "[[]]", 1), "no key": strings.Replace(good, `"key":"k",`, "", 1),
		"an unknown field": line(5, "k", `,"hit":1`), "no hits": line(5, "k", `,"hits":0`), "half a hit": line(5, "k", `,"hits":1.5`),
		"negative time": line(5, "k", `,"took_ms":-1`), "no UTF-8": strings.Replace(good, `"v"`, "\"\xff\"", 1),
		"long":         strings.Replace(good, `"v"`, `"`+strings.Repeat("v", replay.MaxLine)+`"`, 1),
		"out of order": line(4, "k", ""),
	} {
		_, err := replay.Run(t.Context(), set, strings.NewReader(good+"\n"+good+"\n"+bad+"\n"+good+"\n"), replay.Options{})
		var where *replay.LineError
		if !errors.As(err, &where) || where.Line != 3 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// For any log a sliding log admits what a list of its admitted calls says.
func TestSlidingLogIsItsDefinition(t *testing.T) {
	set := rules(t, "  - {key: k, rate_limit: {window: 1s, requests_per_unit: 3, algorithm: sliding-log}}\n")
	rapid.Check(t, func(rt *rapid.T) {
		at, lines, admitted := int64(0), []string{}, []int64{}
		for _, gap := range rapid.SliceOfN(rapid.Int64Range(0, 700), 1, 60).Draw(rt, "gaps") {
			at += gap
			lines = append(lines, line(at, "k", ""))
			if n := len(admitted); n < 3 || at-admitted[n-3] >= 1000 {
				admitted = append(admitted, at)
			}
		}
		if r := check(t, set, lines...); r.Admitted != int64(len(admitted)) {
			rt.Fatalf("%d admitted, by the definition %d", r.Admitted, len(admitted))
		}
	})
}
