package main

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/ratelimit"
)

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A rule file that changes is read again, one with an error is refused whole and told with its line, and what was counted stays.
func TestLimitsAreReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "limits.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	const one = "domain: d\ndescriptors:\n  - {key: a, rate_limit: {unit: day, requests_per_unit: 2}}\n"
	write(one)
	rules, err := ratelimit.LoadRules(file)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ratelimit.New(nil, rules, ratelimit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close(t.Context()) }()
	var mu sync.Mutex
	var results []error
	log := &lockedBuffer{}
	stop := watchLimits(l, []string{file}, contentOf([]string{file}), true, func(err error) { mu.Lock(); defer mu.Unlock(); results = append(results, err) }, slog.New(slog.NewTextHandler(log, nil)))
	defer func() { _ = stop() }()
	until := func(what string, n int) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			have := len(results)
			mu.Unlock()
			if have >= n {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("still not: %s", what)
			}
		}
	}
	write(one + "  - {key: b, rate_limit: {unit: day, requests_per_unit: 2}}\n")
	until("the change is seen", 1)
	if l.Rules().Len() != 2 {
		t.Errorf("%d rules", l.Rules().Len())
	}
	write(one + "  - {key: b, rate_limit: {unit: moon, requests_per_unit: 2}}\n")
	until("the error is seen", 2)
	if l.Rules().Len() != 2 || results[1] == nil || !strings.Contains(log.String(), "limits.yaml:4") {
		t.Errorf("%d rules, %v, %s", l.Rules().Len(), results, log)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	until("a file that is gone is seen", 3)
	if l.Rules().Len() != 2 || results[2] == nil {
		t.Errorf("%d rules, %v", l.Rules().Len(), results)
	}
	write(one)
	until("the file that is back is seen", 4)
	if l.Rules().Len() != 1 || results[3] != nil {
		t.Errorf("%d rules, %v", l.Rules().Len(), results)
	}
}

// What changed between the reading of rule files and the first look at them is seen.
func TestAChangeAtTheStartIsSeen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "limits.yaml")
	if err := os.WriteFile(file, []byte("domain: d\ndescriptors:\n  - {key: a, rate_limit: {unit: day, requests_per_unit: 2}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	rules, err := ratelimit.NewRules()
	if err != nil {
		t.Fatal(err)
	}
	l, err := ratelimit.New(nil, rules, ratelimit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close(t.Context()) }()
	read := make(chan error, 1)
	stop := watchLimits(l, []string{file}, []byte("what they were"), false, func(err error) { read <- err }, slog.New(slog.DiscardHandler))
	defer func() { _ = stop() }()
	select {
	case err := <-read:
		if err != nil || l.Rules().Len() != 1 {
			t.Errorf("%v, %d rules", err, l.Rules().Len())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it was not read")
	}
}

// Whoever reads the metrics of a server sees that a rule file has an error, and since when other rules hold.
func TestReloadsInTheMetrics(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file("new"), []byte(text), 0o600), os.Rename(file("new"), file("limits"))); err != nil {
			t.Fatal(err)
		}
	}
	write(ruleFile)
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--store", "mem:", "--db", "sqlite:"+file("db"), "--provider", "http://127.0.0.1:1",
		"--limits", file("limits"), "--ready-file", file("s"))
	base := "http://" + p.address(file("s"))
	sample := func(series string) (n float64) {
		t.Helper()
		_, rest, ok := strings.Cut(body(t, base+"/metrics"), "\n"+series+" ")
		text, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseFloat(text, 64)
		if !ok || err != nil {
			t.Fatalf("%s: %q, %v", series, text, err)
		}
		return n
	}
	until := func(series string, want float64) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); sample(series) != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s is still not %v\n%s", series, want, p.err.String())
			}
		}
	}
	const ok, at = "holdfast_limit_last_reload_ok", "holdfast_limit_rules_read_timestamp_seconds"
	first := sample(at)
	if since := time.Since(time.UnixMilli(int64(first * 1000))); sample(ok) != 1 || since < -time.Second || since > time.Minute {
		t.Errorf("at the start: ok is %v, they were read %s ago", sample(ok), since)
	}
	write(ruleFile + "  - {key: more, rate_limit: {unit: moon, requests_per_unit: 3}}\n")
	until(ok, 0)
	if sample(at) != first || sample("holdfast_limit_rules") != 2 {
		t.Errorf("%v rules, read at %v and at first at %v", sample("holdfast_limit_rules"), sample(at), first)
	}
	write(ruleFile + "  - {key: more, rate_limit: {unit: day, requests_per_unit: 3}}\n")
	until(ok, 1)
	if sample(at) <= first || sample("holdfast_limit_rules") != 3 {
		t.Errorf("%v rules, read at %v and at first at %v", sample("holdfast_limit_rules"), sample(at), first)
	}
	p.terminate()
}
