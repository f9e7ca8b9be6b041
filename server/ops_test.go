package server_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

// Where the metrics are told of: rules, a dashboard, and what to do about each.
const (
	alertsFile    = "../ops/alerts.yml"
	dashboardFile = "../ops/dashboard.json"
	manual        = "../docs/operations.md"
)

// named are the metrics of ours that a text speaks of. Labels follow in braces, histograms
// have series of three names.
var named = regexp.MustCompile(`\bholdfast_[a-z0-9_]+`)

func metricsIn(text string) map[string]bool {
	found := map[string]bool{}
	for _, name := range named.FindAllString(text, -1) {
		if strings.HasPrefix(name, "holdfast_node_") {
			continue // exported by nodes; package replica looks after them
		}
		for _, series := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, series)
		}
		found[name] = true
	}
	return found
}

func readText(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// exported are the metrics of a server that has answered something.
func exported(t testing.TB) map[string]bool {
	r := newRig(t, limited(t, patient))
	r.sale("drop", 1)
	r.hold("drop", "ada")
	r.want(200, "POST", decisions, wish("", "tenant", "ada"), nil)
	found := map[string]bool{}
	for line := range strings.Lines(string(r.want(200, "GET", "/metrics", "", nil).body)) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			if name, _, _ := strings.Cut(rest, " "); strings.HasPrefix(name, "holdfast_") {
				found[name] = true
			}
		}
	}
	if len(found) < 20 {
		t.Fatalf("only %d metrics: %v", len(found), slices.Sorted(maps.Keys(found)))
	}
	return found
}

// manualRows are the metrics that have a row in the manual's table of metrics.
func manualRows(text string) map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(text) {
		if cell, ok := strings.CutPrefix(line, "| "); ok {
			cell, _, _ = strings.Cut(cell, " | ")
			maps.Copy(found, metricsIn(cell))
		}
	}
	return found
}

// lacks are the names of want that have does not have.
func lacks(have, want map[string]bool) (missing []string) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !have[name] {
			missing = append(missing, name)
		}
	}
	return missing
}

// Rules, dashboard and manual speak of metrics that exist, and the manual of all of them.
func TestMetricsAreDocumented(t *testing.T) {
	have := exported(t)
	for _, file := range []string{alertsFile, dashboardFile, manual} {
		text := readText(t, file)
		// Tables of the database and binaries have names that begin alike.
		text = strings.NewReplacer("holdfast_now", "", "holdfast_migrations_", "").Replace(text)
		speaks := metricsIn(text)
		if len(speaks) == 0 {
			t.Errorf("%s names no metric", file)
		}
		if missing := lacks(have, speaks); len(missing) > 0 {
			t.Errorf("%s names what no server exports: %v", file, missing)
		}
	}
	if missing := lacks(manualRows(readText(t, manual)), have); len(missing) > 0 {
		t.Errorf("%s has no row for %v", manual, missing)
	}
}

// The comparison itself finds a metric that is gone and one that nobody wrote about.
func TestMetricsComparison(t *testing.T) {
	have := map[string]bool{"holdfast_a_total": true, "holdfast_b_seconds": true}
	text := "| `holdfast_a_total{type}` | watch holdfast_c_total |\n| `x` | holdfast_b_seconds_bucket |\n"
	if got := lacks(have, metricsIn(text)); !slices.Equal(got, []string{"holdfast_c_total"}) {
		t.Errorf("named and not exported: %v", got)
	}
	if got := lacks(manualRows(text), have); !slices.Equal(got, []string{"holdfast_b_seconds"}) {
		t.Errorf("exported and without a row: %v", got)
	}
}

type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alerts(t testing.TB) (all []alert) {
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
	return all
}

// anchors are those of a manual's headings, made as GitHub makes them.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	dropped := regexp.MustCompile(`[^a-z0-9 _-]`)
	for line := range strings.Lines(text) {
		if rest := strings.TrimLeft(line, "#"); rest != line && strings.HasPrefix(rest, " ") {
			title := dropped.ReplaceAllString(strings.ToLower(strings.TrimSpace(rest)), "")
			found["#"+strings.ReplaceAll(title, " ", "-")] = true
		}
	}
	return found
}

// Whoever is woken finds what to do.
func TestAlertsHaveRunbooks(t *testing.T) {
	known := anchors(readText(t, manual))
	all := alerts(t)
	if len(all) < 10 {
		t.Errorf("only %d alerts", len(all))
	}
	for _, a := range all {
		page, anchor, _ := strings.Cut(a.Annotations["runbook"], "#")
		if page != "docs/operations.md" || !known["#"+anchor] {
			t.Errorf("%s: the runbook %q is no heading of the manual", a.Alert, a.Annotations["runbook"])
		}
		if a.Annotations["summary"] == "" || !slices.Contains([]string{"critical", "warning"}, a.Labels["severity"]) {
			t.Errorf("%s: summary %q, severity %q", a.Alert, a.Annotations["summary"], a.Labels["severity"])
		}
	}
}

// Each alert has a moment at which it fires and one at which it does not.
func TestAlertsAreTested(t *testing.T) {
	var file struct {
		Tests []struct {
			Cases []struct {
				Name     string `yaml:"alertname"`
				Expected []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	if err := yaml.Unmarshal([]byte(readText(t, "../ops/alerts_test.yml")), &file); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, c := range test.Cases {
			if len(c.Expected) > 0 {
				fires[c.Name] = true
			} else {
				silent[c.Name] = true
			}
		}
	}
	for _, a := range alerts(t) {
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s: tested firing: %v, not firing: %v", a.Alert, fires[a.Alert], silent[a.Alert])
		}
	}
}

// Prometheus itself takes the rules, and they fire when they should.
func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is missing; scripts/deps installs it")
		}
		t.Skip("promtool is missing: THE ALERT RULES ARE NOT TESTED (Debian: apt-get install prometheus)")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = filepath.Dir(alertsFile)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// The dashboard is what Grafana imports: panels with an id and a place of their own, each with
// something to show.
func TestDashboard(t *testing.T) {
	var board struct {
		Title         string
		SchemaVersion int
		Panels        []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ Expr, RefID string }
		}
	}
	if err := json.Unmarshal([]byte(readText(t, dashboardFile)), &board); err != nil {
		t.Fatal(err)
	}
	if board.Title == "" || board.SchemaVersion < 36 || len(board.Panels) < 8 {
		t.Errorf("%q, schema %d, %d panels", board.Title, board.SchemaVersion, len(board.Panels))
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" || p.Type == "" {
			t.Errorf("panel %d %q: type %q, or its id is not its own", p.ID, p.Title, p.Type)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok || x >= 24 {
					t.Fatalf("panel %q lies on %q, or beyond the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			if target.Expr == "" || target.RefID == "" {
				t.Errorf("panel %q has an empty target", p.Title)
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
	}
}

// Figures of the manual's sizing are those that were measured last.
func TestSizingIsMeasured(t *testing.T) {
	_, sizing, found := strings.Cut(readText(t, manual), "\n## Sizing\n")
	sizing, _, _ = strings.Cut(sizing, "\n## ")
	measured := readText(t, "../docs/benchmarks.md")
	figures := regexp.MustCompile(`(?m) \| ([0-9,]+) \|$`).FindAllStringSubmatch(sizing, -1)
	if !found || len(figures) < 5 {
		t.Fatalf("found %v, %d figures", found, len(figures))
	}
	for _, f := range figures {
		if !strings.Contains(measured, "| "+f[1]+" |") {
			t.Errorf("docs/operations.md, Sizing: %s is not in docs/benchmarks.md", f[1])
		}
	}
}

// systemd takes the units. It tells of a mistyped setting in a warning, and goes on.
func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is missing: THE UNITS ARE NOT CHECKED")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "holdfast")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var units []string
	for _, name := range []string{"holdfast.service", "holdfast.socket"} {
		text := strings.ReplaceAll(readText(t, "../ops/"+name), "/usr/local/bin/holdfast ", program+" ")
		units = append(units, filepath.Join(dir, name))
		if err := os.WriteFile(units[len(units)-1], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), analyze, append([]string{"verify", "--man=no"}, units...)...).CombinedOutput()
	if err != nil || strings.Contains(string(out), dir) || strings.Contains(string(out), "holdfast.s") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// sample is the value of a series, as its line in /metrics begins; false when it is not there.
func (r *rig) sample(series string) (value string, ok bool) {
	for line := range strings.Lines(string(r.want(200, "GET", "/metrics", "", nil).body)) {
		if rest, found := strings.CutPrefix(line, series+" "); found {
			return strings.TrimSpace(rest), true
		}
	}
	return "", false
}

// number is a sample that has to be there.
func (r *rig) number(series string) float64 {
	r.Helper()
	text, _ := r.sample(series)
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		r.Fatalf("%s: %v", series, err)
	}
	return n
}

func (r *rig) untilSample(series, want string) {
	r.Helper()
	r.until(series+" is "+want, func() bool { got, ok := r.sample(series); return ok && got == want })
}

// A payment that nobody settles can be seen, and so can a database that is gone; of that one
// nothing old is told.
func TestProbe(t *testing.T) {
	pg := sqldbtest.Postgres(t)
	r := rigOn(t, "mem:", pg.NewDatabase(t))
	r.untilSample(`holdfast_dependency_up{dependency="database"}`, "1")
	r.untilSample(`holdfast_dependency_up{dependency="store"}`, "1")
	r.untilSample("holdfast_payments_unsettled", "0")
	r.untilSample("holdfast_outbox_lag_seconds", "0")
	err := r.db.Write(r.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO payments (id, hold, buyer, amount, currency, source, state, next_at, created_at, updated_at)
			SELECT 'stuck', 'h', 'ada', 1, 'EUR', 'tok', 'pending', n + 3600000000, n - 900000000, n FROM (SELECT holdfast_now() AS n) AS t`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r.untilSample("holdfast_payments_unsettled", "1")
	if age, _ := r.sample("holdfast_payments_oldest_unsettled_seconds"); !strings.HasPrefix(age, "90") {
		t.Errorf("its age is %q, want 900 s and a little", age)
	}
	pg.Kill()
	r.untilSample(`holdfast_dependency_up{dependency="database"}`, "0")
	if n, ok := r.sample("holdfast_payments_unsettled"); ok {
		t.Errorf("nobody can know that %s are unsettled", n)
	}
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	r.untilSample(`holdfast_dependency_up{dependency="database"}`, "1")
	r.untilSample("holdfast_payments_unsettled", "1")
}

// Problems are counted from nothing, so that the first one is an increase; also those that are
// answered before a handler is reached.
func TestProblemsAreCounted(t *testing.T) {
	var arrived, release chan struct{}
	r := newRig(t, func(c *server.Config) {
		c.MaxInFlight = 1
		arrived, release = waiting(c)
	})
	for _, kind := range []string{"internal", "store-full", "database-full", "outcome-unknown", "overloaded"} {
		if got, ok := r.sample(`holdfast_http_problems_total{type="` + kind + `"}`); !ok || got != "0" {
			t.Errorf("%s: %q", kind, got)
		}
	}
	done := make(chan answer, 1)
	req := r.request("POST", "/storm", "")
	go func() { done <- r.send(req) }()
	select {
	case <-arrived:
	case <-time.After(10 * time.Second):
		t.Fatal("the storm does not begin")
	}
	if a := r.do("GET", "/v1/sales/drop", ""); a.status != 503 {
		t.Errorf("with every place taken: %s", a)
	}
	close(release)
	<-done
	if got, _ := r.sample(`holdfast_http_problems_total{type="overloaded"}`); got != "1" {
		t.Errorf("overloaded: %q", got)
	}
}
