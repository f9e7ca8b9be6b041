package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/ratelimit/replay"
)

func TestLimitCheck(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	call := func(at, key string) string {
		return `{"time":"2026-11-28T09:00:` + at + `Z","domain":"shop","descriptors":[[{"key":"` + key + `","value":"ada"}]]}` + "\n"
	}
	for name, text := range map[string]string{
		"rules": "domain: shop\ndescriptors:\n  - {key: tenant, rate_limit: {unit: second, requests_per_unit: 2}}\n" +
			"  - {key: quiet, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}\n" +
			"  - {key: remote_address, rate_limit: {unit: minute, requests_per_unit: 1}}\n",
		"log":      call("00", "tenant") + call("00.1", "tenant") + call("00.2", "tenant") + call("01", "tenant") + call("02", "quiet") + call("03", "quiet") + call("04", "nobody"),
		"disorder": call("01", "tenant") + call("00", "tenant"),
		"wrong":    call("01", "tenant") + "{}\n",
		"empty":    "",
		"access": `192.0.2.1 - - [28/Nov/2026:10:00:00 +0100] "GET / HTTP/1.1" 200 5` + "\n" +
			`192.0.2.1 - - [28/Nov/2026:10:00:01 +0100] "GET / HTTP/1.1" 200 5` + "\n",
		"bad rules": "domain: shop\ndescriptors:\n  - {key: tenant, rate_limit: {unit: moon, requests_per_unit: 2}}\n",
	} {
		if err := os.WriteFile(file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(args ...string) (string, error) {
		var out, errs bytes.Buffer
		err := run(append([]string{"limit", "check"}, args...), &out, &errs)
		return out.String() + errs.String(), err
	}
	said, err := check("--rules", file("rules"), file("log"))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Join(strings.Fields(said), " ")
	for _, want := range []string{
		"7 lines, 2026-11-28T09:00:00Z to 2026-11-28T09:00:04Z: 5 calls admitted, 1 refused; no rule is for 1",
		`shop quiet fixed-window 2 1 0 1 0 2 in 1m0s by "ada" line 6, 2026-11-28T09:00:03Z, "ada"`,
		`shop remote_address fixed-window 0 0 0 - 0 - -`,
		`shop tenant fixed-window 4 3 1 - 0 3 in 1s by "ada" line 3, 2026-11-28T09:00:00Z, "ada"`,
	} {
		if !strings.Contains(words, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	said, err = check("--json", "--rules", file("rules"), file("log"))
	var r replay.Report
	if err != nil || json.Unmarshal([]byte(said), &r) != nil || r.Lines != 7 || len(r.Rules) != 3 || r.Rules[2].Refused != 1 || r.Rules[2].First.Line != 3 {
		t.Errorf("%v\n%s", err, said)
	}
	said, err = check("--rules", file("rules"), "--format", "combined", "--domain", "shop", file("access"))
	if words := strings.Join(strings.Fields(said), " "); err != nil || !strings.Contains(words, "shop remote_address fixed-window 2 1 1 - 0 2 in 1m0s") {
		t.Errorf("%v\n%s", err, said)
	}
	if said, err = check("--rules", file("rules"), file("empty")); err != nil || !strings.Contains(said, "empty") {
		t.Errorf("%v\n%s", err, said)
	}
	for _, c := range []struct{ args, says string }{
		{"--rules RULES disorder", "disorder: line 2: is earlier"},
		{"--rules RULES wrong", "wrong: line 2: has no time"},
		{"--rules RULES none", "none"},
		{"log", "--rules"},
		{"--rules DIR/bad_rules log", ":3: "},
		{"--rules RULES --format combined access", "--domain"},
		{"--rules RULES --domain shop log", "--domain"},
		{"--rules RULES --format combined --domain shpo access", `no rule is for "shpo"`},
		{"--rules RULES --format apache log", "--format"},
		{"--rules RULES access", "line 1: is not a call in JSON"},
	} {
		var args []string
		for _, a := range strings.Fields(c.args) {
			a = strings.NewReplacer("RULES", file("rules"), "DIR/bad_rules", file("bad rules")).Replace(a)
			switch a {
			case "disorder", "wrong", "none", "log", "access":
				a = file(a)
			}
			args = append(args, a)
		}
		if said, err := check(args...); err == nil || !strings.Contains(err.Error()+said, c.says) {
			t.Errorf("%s: %v\n%s", c.args, err, said)
		}
	}
}
