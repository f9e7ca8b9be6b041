package replica_test

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const (
	alertsFile = "../ops/node-alerts.yml"
	alertTests = "../ops/node-alerts_test.yml"
	boardFile  = "../ops/node-dashboard.json"
	manual     = "../docs/operations.md"
)

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var named = regexp.MustCompile(`\bholdfast_node_[a-z0-9_]+`)

func metricsIn(text string) (names []string) {
	for _, name := range named.FindAllString(text, -1) {
		names = append(names, strings.TrimSuffix(name, "_bucket"))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Alerts, dashboard and manual speak of metrics that exist; the manual has a row for each, and
// each is moved by a test.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	leader := w.leader()
	w.until(leader, `peer_answers{peer="`+w.nodes[(leader+1)%3].name+`"}`, is(1))
	have := w.nodes[leader].exported()
	if len(have) < 25 {
		t.Fatalf("only %d metrics: %v", len(have), have)
	}
	rows := ""
	for line := range strings.Lines(readText(t, manual)) {
		if cell, ok := strings.CutPrefix(line, "| "); ok {
			cell, _, _ = strings.Cut(cell, " | ")
			rows += cell + "\n"
		}
	}
	moved := readText(t, "metrics_test.go") + readText(t, "room_test.go") + readText(t, "still_test.go") + readText(t, "gate/gate_test.go")
	for _, name := range have {
		if !slices.Contains(metricsIn(rows), name) {
			t.Errorf("%s has no row for %s", manual, name)
		}
		if short := strings.TrimPrefix(name, "holdfast_node_"); !strings.Contains(moved, short) {
			t.Errorf("no test moves %s", name)
		}
	}
	for _, file := range []string{alertsFile, boardFile, manual} {
		for _, name := range metricsIn(readText(t, file)) {
			if !slices.Contains(have, name) {
				t.Errorf("%s names %s, which no node exports", file, name)
			}
		}
	}
}

type alert struct {
	Alert       string            `yaml:"alert"`
	Annotations map[string]string `yaml:"annotations"`
}

func alerts(t *testing.T) (all []alert) {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal([]byte(readText(t, alertsFile)), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 10 {
		t.Fatalf("only %d alerts", len(all))
	}
	return all
}

// Whoever is woken finds what to do, and each alert has a moment at which it fires and one at which it does not.
func TestAlerts(t *testing.T) {
	anchors, dropped := map[string]bool{}, regexp.MustCompile(`[^a-z0-9 _-]`)
	for line := range strings.Lines(readText(t, manual)) {
		if title := strings.TrimLeft(line, "#"); title != line {
			anchors[strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-")] = true
		}
	}
	var file struct {
		Tests []struct {
			Cases []struct {
				Name     string `yaml:"alertname"`
				Expected []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	if err := yaml.Unmarshal([]byte(readText(t, alertTests)), &file); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, c := range test.Cases {
			fires[c.Name] = fires[c.Name] || len(c.Expected) > 0
			silent[c.Name] = silent[c.Name] || len(c.Expected) == 0
		}
	}
	for _, a := range alerts(t) {
		page, anchor, _ := strings.Cut(a.Annotations["runbook"], "#")
		if page != "docs/operations.md" || !anchors[anchor] {
			t.Errorf("%s: the runbook %q is no heading of the manual", a.Alert, a.Annotations["runbook"])
		}
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s: tested firing: %v, not firing: %v", a.Alert, fires[a.Alert], silent[a.Alert])
		}
	}
}

// Prometheus itself takes the rules, and they fire when they should.
func TestPromtool(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is missing; scripts/deps installs it")
		}
		t.Skip("promtool is missing: THE ALERT RULES ARE NOT TESTED (Debian: apt-get install prometheus)")
	}
	for _, args := range [][]string{{"check", "rules", "node-alerts.yml"}, {"test", "rules", "node-alerts_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "../ops"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
