package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

// entries makes descriptors: "tenant=acme path=/a" is one with two entries.
func entries(texts ...string) (all [][]ratelimit.Entry) {
	for _, text := range texts {
		var d []ratelimit.Entry
		for _, e := range strings.Fields(text) {
			key, value, _ := strings.Cut(e, "=")
			d = append(d, ratelimit.Entry{Key: key, Value: value})
		}
		all = append(all, d)
	}
	return all
}

func loaded(t *testing.T, paths ...string) *ratelimit.Limiter {
	t.Helper()
	rules, err := ratelimit.LoadRules(paths...)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ratelimit.New(newWorld(t).store, rules, patient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

// admitted is how many of ten calls come in; -1 when no rule matches.
func admitted(t *testing.T, l *ratelimit.Limiter, domain string, descriptors ...string) int {
	t.Helper()
	n := 0
	for range 10 {
		reqs, _ := l.Rules().Match(domain, 1, entries(descriptors...)...)
		if len(reqs) == 0 {
			return -1
		}
		if allow(t, l, reqs...).Allowed {
			n++
		}
	}
	return n
}

func TestFileOfEnvoy(t *testing.T) {
	l := loaded(t, "testdata/shop.yaml")
	for _, c := range []struct {
		descriptors []string
		want        int
	}{
		{[]string{"tenant=other"}, 3}, {[]string{"tenant=another"}, 3}, {[]string{"tenant=acme"}, 5}, {[]string{"tenant=banned"}, 0},
		{[]string{"tenant=eu-1"}, 2}, {[]string{"tenant=eu-2"}, 2}, {[]string{"tenant=trusted"}, 10}, {[]string{"tenant=42"}, 4},
		{[]string{"mail=marketing to=ada"}, 1}, {[]string{"mail=marketing to=bob"}, 1}, {[]string{"mail=other to=ada"}, -1},
		{[]string{"tenant=acme more=x"}, -1}, {[]string{"mail=marketing"}, -1}, {[]string{"free="}, -1}, {[]string{"unknown=x"}, -1},
		{[]string{"watched=x"}, 10},
		{[]string{"kind=read user=ada"}, 1}, {[]string{"path=/search user=bob"}, 4},
		{[]string{"kind=read user=eve", "path=/search user=eve"}, 4}, {[]string{"kind=read user=eve"}, 1}, // the first did not count
		{[]string{"tenant=both", "mail=marketing to=both"}, 1},
	} {
		if got := admitted(t, l, "shop", c.descriptors...); got != c.want {
			t.Errorf("%v: %d of 10 come in, not %d", c.descriptors, got, c.want)
		}
	}
	if got := admitted(t, l, "elsewhere", "tenant=acme"); got != -1 {
		t.Errorf("another domain: %d", got)
	}
	reqs, which := l.Rules().Match("shop", 1, entries("none=x", "tenant=both")...)
	if len(reqs) != 1 || which[0] != 1 {
		t.Errorf("%v is of %v", reqs, which)
	}
	if d := allow(t, l, reqs...); !d.Allowed || d.Statuses[0].Remaining != 1 { // of the calls that mail refused it counted none
		t.Errorf("%+v", d)
	}
}

func TestFileOfOurs(t *testing.T) {
	l := loaded(t, "testdata/ours.yaml", "testdata/shop.yaml")
	for _, c := range []struct {
		descriptor string
		want       int
	}{
		{"tenant=other path=/a", 3}, {"tenant=acme path=/a", 7}, {"tenant=acme path=/b", 7}, {"job=x", 2},
		{"tenant=" + strings.Repeat("x", 1000) + " path=/a", 3},
	} {
		if got := admitted(t, l, "api", c.descriptor); got != c.want {
			t.Errorf("%.40s: %d of 10 come in, not %d", c.descriptor, got, c.want)
		}
	}
}

// A value that gets a rule of its own keeps its count, and so does everybody else.
func TestReloadFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limits.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const before = "domain: d\ndescriptors:\n  - key: tenant\n    rate_limit: {unit: day, requests_per_unit: 8}\n"
	write(before)
	l := loaded(t, path)
	for _, tenant := range []string{"acme", "other"} {
		reqs, _ := l.Rules().Match("d", 5, entries("tenant="+tenant)...)
		allow(t, l, reqs...)
	}
	write(before + "  - key: tenant\n    value: acme\n    rate_limit: {unit: fortnight, requests_per_unit: 9}\n")
	err := l.ReloadFiles(path)
	var where *ratelimit.FileError
	if !errors.As(err, &where) || !errors.Is(err, ratelimit.ErrInvalid) || where.File != path || where.Line != 5 {
		t.Fatalf("%v", err)
	}
	if got := admitted(t, l, "d", "tenant=third"); got != 8 {
		t.Errorf("the old rules have gone: %d", got)
	}
	write(before + "  - key: tenant\n    value: acme\n    rate_limit: {unit: day, requests_per_unit: 9}\n")
	if err := l.ReloadFiles(path); err != nil {
		t.Fatal(err)
	}
	for tenant, want := range map[string]int{"acme": 4, "other": 3} {
		if got := admitted(t, l, "d", "tenant="+tenant); got != want {
			t.Errorf("%s: %d more come in, not %d", tenant, got, want)
		}
	}
}

func TestFileErrors(t *testing.T) {
	const head = "domain: d\ndescriptors:\n"
	deep := head
	for i := range 20 {
		pad := strings.Repeat("  ", i)
		deep += pad + "- key: a\n" + pad + "  descriptors:\n"
	}
	deep += strings.Repeat("  ", 20) + "- key: a\n"
	for _, c := range []struct {
		text string
		line int
		says string
	}{
		{"", 1, "document"}, {"descriptors: []", 1, "domain"}, {"domain: d\ndomains: e", 2, "domains"}, {"domain: [d]", 1, ""}, {"domain: d\n\tx", 0, ""},
		{head + "  - value: x\n", 3, "key"}, {head + "  - key: a\n    rate_limits: {}\n", 4, "rate_limits"},
		{head + "  - key: a\n  - key: a\n", 4, "twice"}, {head + "  - key: a\n    value: x*\n  - key: a\n    value: x*\n", 5, "twice"},
		{head + "  - key: a\n    rate_limit: {requests_per_unit: 5}\n", 3, "unit"}, {head + "  - key: a\n    rate_limit: {unit: day}\n", 3, "requests_per_unit"},
		{head + "  - key: a\n    rate_limit: {unit: day, requests_per_unit: -1}\n", 3, "Limit"},
		{head + "  - key: a\n    rate_limit: {unit: day, requests_per_unit: many}\n", 4, ""},
		{head + "  - key: a\n    rate_limit: {unit: day, window: 5s, requests_per_unit: 5}\n", 3, "exclude"},
		{head + "  - key: a\n    rate_limit: {unlimited: true, unit: day}\n", 3, "unlimited"},
		{head + "  - key: a\n    rate_limit: {unit: day, requests_per_unit: 5, algorithm: best}\n", 3, "Algorithm"},
		{head + "  - key: a\n    rate_limit: {unit: day, requests_per_unit: 5, name: x, replaces: [{name: x}]}\n", 3, "replaces"},
		{head + "  - key: a\n    rate_limit: {unit: day, requests_per_unit: 5, overrides: [{key: a, unit: day, requests_per_unit: 5}]}\n", 3, "overrides"},
		{head + "  - key: a\n    rate_limit: {unit: day, requests_per_unit: 5, on_error: shrug}\n", 3, "OnError"},
		{head + "  - key: a\n    descriptors:\n      - key: b\n      - key: b\n", 6, "twice"},
		{head + "  - &x\n    key: a\n  - *x\n", 0, ""}, {deep, 0, "deeper"}, {"domain: d\n---\ndomain: e\n", 1, "one YAML document"},
		{"domain: " + strings.Repeat("x", 2<<20), 1, "bytes"}, {"domain: d\ndescriptors: " + strings.Repeat("[", 1<<19), 2, "nested"},
		{"domain: d\ndescriptors:\n" + strings.Repeat("- ", 1<<18), 3, "nested"}, {"domain: " + strings.Repeat("{a: ", 1<<17), 1, "nested"},
	} {
		_, err := ratelimit.ParseRules(ratelimit.File{Name: "f.yaml", Text: []byte(c.text)})
		var where *ratelimit.FileError
		if !errors.As(err, &where) || !errors.Is(err, ratelimit.ErrInvalid) || c.line > 0 && where.Line != c.line || where.Line < 1 || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.200q: %v, not line %d %q", c.text, err, c.line, c.says)
		}
		if err != nil && !strings.HasPrefix(err.Error(), fmt.Sprintf("f.yaml:%d: ", where.Line)) {
			t.Errorf("%v", err)
		}
	}
	drawn := ratelimit.File{Name: "f.yaml", Text: []byte("# " + strings.Repeat("-", 200) + "\ndomain: d # a line\n")}
	if _, err := ratelimit.ParseRules(drawn); err != nil {
		t.Error(err)
	}
	twice := ratelimit.File{Name: "f.yaml", Text: []byte("domain: d")}
	if _, err := ratelimit.ParseRules(twice, twice); err == nil {
		t.Error("one domain twice")
	}
}

func FuzzParseRules(f *testing.F) {
	for _, path := range []string{"testdata/shop.yaml", "testdata/ours.yaml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("domain: d\ndescriptors: [{key: a, value: '*', rate_limit: {unlimited: yes}}]"))
	f.Add([]byte("domain: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		rules, err := ratelimit.ParseRules(ratelimit.File{Name: "f", Text: text})
		var where *ratelimit.FileError
		if err != nil {
			if !errors.As(err, &where) || !errors.Is(err, ratelimit.ErrInvalid) || where.Line < 1 {
				t.Fatalf("%v", err)
			}
			return
		}
		rules.Match("d", 1, entries("a=b c=d", "a=")...)
	})
}
