package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// run a drill and log what it said if it fails.
func drillSale(t *testing.T, opts SaleOptions) Report {
	t.Helper()
	var said bytes.Buffer
	opts.Progress = &said
	report, err := Sale(t.Context(), opts)
	return reported(t, report, err, &said)
}

// reported shows what a drill said when its test fails.
func reported(t *testing.T, report Report, err error, said *bytes.Buffer) Report {
	t.Helper()
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(said.String())
			for _, c := range report.Checks {
				t.Logf("%-26s %t  %s", c.Name, c.OK, c.Detail)
			}
		}
	})
	return report
}

func mustPass(t *testing.T, r Report) {
	t.Helper()
	if !r.Passed() {
		t.Errorf("seed %d: %s", r.Seed, r.Verdict)
	}
}

// Small storms on each pair of engines, and all faults. A large one on the embedded engines CI has the program itself do.
func TestSale(t *testing.T) {
	bin := program(t, "")
	leavingNothing(t)
	on := func(storm func(*testing.T, string)) func(*testing.T) { return func(t *testing.T) { storm(t, bin) } }
	inLines(t, 2, []smallStorm{
		{"every-fault", on(everyFault)},
		{"full-disk", on(fullDisks)},
		{"embedded-engines", on(embedded)},
		{"slow-disk", on(slowDisks)},
		{"named-places", on(namedPlaces)},
		{"no-connections", on(noConnections)},
		{"a-store-that-keeps-its-file", on(keptFile)},
	})
}

func embedded(t *testing.T, bin string) {
	r := drillSale(t, SaleOptions{Binary: bin, Buyers: 160, Stock: 40})
	mustPass(t, r)
	if r.Class != "A" || r.Figures.(SaleFigures).Sold != 40 || len(r.Figures.(SaleFigures).Restarts) != 1 {
		t.Errorf("%+v", r)
	}
	if r.Figures.(SaleFigures).Seconds > 40 {
		t.Errorf("it took %.1f s", r.Figures.(SaleFigures).Seconds)
	}
}

// Whatever happens to its engines, the sale keeps its guarantees, and goes on by itself.
func everyFault(t *testing.T, bin string) {
	needed(t, "redis-server")
	if _, err := postgresPrograms(); err != nil {
		missing(t, err.Error())
	}
	r := drillSale(t, SaleOptions{
		Binary: bin, Store: "redis-server", DB: "postgres", Servers: 2, Buyers: 200, Stock: 60, Faults: ofServers,
	})
	mustPass(t, r)
	f := r.Figures.(SaleFigures)
	if r.Class != "C" || len(f.Outages) != len(ofServers)+1 || len(f.Restarts) != 2 {
		t.Errorf("%+v", r)
	}
}

// A database that has no connection left for its servers is gone for a while, and nothing more.
func noConnections(t *testing.T, bin string) {
	if _, err := postgresPrograms(); err != nil {
		missing(t, err.Error())
	}
	r := drillSale(t, SaleOptions{Binary: bin, DB: "postgres", Buyers: 100, Stock: 40, Faults: []string{FaultCrowdDB}})
	mustPass(t, r)
}

// ofServers are the faults of engines that are processes.
var ofServers = []string{FaultKillServer, FaultFlushStore, FaultKillStore, FaultPauseStore, FaultStopDB}

// With no room on its disk the sale stands still and says so; with room it goes on by itself. Twice,
// with two seeds.
func fullDisks(t *testing.T, bin string) {
	if runtime.GOOS != "linux" {
		t.Skip("mount namespaces are Linux's")
	}
	unshare := []string{"--mount", "true"}
	if os.Geteuid() != 0 {
		unshare = append([]string{"--user", "--map-root-user"}, unshare...)
	}
	if out, err := exec.Command("unshare", unshare...).CombinedOutput(); err != nil {
		t.Skipf("full-disk is not tried: this system gives no mount namespace: %v %s", err, out)
	}
	r, err := SaleRounds(t.Context(), SaleOptions{Binary: bin, Buyers: 80, Stock: 20, Faults: []string{FaultFullDisk, FaultKillServer}}, 2)
	if err != nil {
		t.Fatal(err)
	}
	mustPass(t, r)
	if f := r.Figures.(RoundsFigures); r.Class != "A" || f.Passed != 2 || f.Seeds[0] == f.Seeds[1] {
		t.Errorf("%+v", r)
	}
}

// With syncs that take longer than anybody waits for them, whoever asks is told to come back; with
// a disk that is well again the sale goes on by itself.
func slowDisks(t *testing.T, bin string) {
	if runtime.GOOS != "linux" {
		t.Skip("seccomp is Linux's")
	}
	r := drillSale(t, SaleOptions{Binary: bin, Buyers: 100, Stock: 40, Faults: []string{FaultSlowDisk}})
	mustPass(t, r)
	f := r.Figures.(SaleFigures)
	if told := f.Answers["503 store-unavailable"] + f.Answers["503 outcome-unknown"] + f.Answers["503 busy"]; r.Class != "A" || told == 0 {
		t.Errorf("nobody was told to come back: %+v", f.Answers)
	}
}

// A store of class B keeps what it has said, also when it is killed.
func keptFile(t *testing.T, bin string) {
	needed(t, "redis-server")
	r := drillSale(t, SaleOptions{
		Binary: bin, Store: "redis-server?class=b", Buyers: 100, Stock: 40, Faults: []string{FaultKillStore, FaultPauseStore},
	})
	mustPass(t, r)
	if r.Class != "B" || len(r.Figures.(SaleFigures).Outages) != 2 {
		t.Errorf("%+v", r)
	}
}

// Engines that the caller names get a place beside what is there, and lose it again.
func namedPlaces(t *testing.T, bin string) {
	dir := t.TempDir()
	r := drillSale(t, SaleOptions{
		Binary: bin, Store: "file:" + filepath.Join(dir, "store"), DB: "sqlite:" + filepath.Join(dir, "my.db"),
		Buyers: 30, Stock: 8, Faults: []string{"none"},
	})
	mustPass(t, r)
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) > 1 { // the directory of stores may stay, empty
		t.Errorf("left: %q, %v", left, err)
	}
}

// Two servers on shared engines keep one sale's guarantees while both are killed.
func TestSaleOnTwoServers(t *testing.T) {
	bin := program(t, "")
	redis := storetest.Redis(t)
	db := sqldbtest.Shared(t).NewDatabase(t)
	temporary(t)
	r := drillSale(t, SaleOptions{Binary: bin, Store: redis.URL(), DB: db, Servers: 2, Buyers: 150, Stock: 40})
	mustPass(t, r)
	nothingLeft(t)
	if r.Class != "C" || len(r.Figures.(SaleFigures).Restarts) != 2 {
		t.Errorf("%+v", r)
	}
	if keys := redis.Admin(t, "DBSIZE"); !strings.Contains(keys, "0") || strings.ContainsAny(keys, "123456789") {
		t.Errorf("keys left in redis: %s", keys)
	}
	var schemas int
	admin, err := openDB(db)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	err = admin.QueryRow(`SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'drill%'`).Scan(&schemas)
	if err != nil || schemas != 0 {
		t.Errorf("%d schemas left, %v", schemas, err)
	}
}

func TestSaleEndsWithItsContext(t *testing.T) {
	bin := program(t, "")
	temporary(t)
	ctx, cancel := context.WithCancel(t.Context())
	said := &afterLine{text: "kill-server", then: cancel}
	_, err := Sale(ctx, SaleOptions{Binary: bin, Progress: said})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	nothingLeft(t)
}

// afterLine calls then when a line with text is written.
type afterLine struct {
	text string
	then func()
}

func (a *afterLine) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(a.text)) {
		a.then()
	}
	return len(p), nil
}

func TestNoVerdictWithoutServers(t *testing.T) {
	temporary(t)
	_, err := Sale(t.Context(), SaleOptions{Binary: "/bin/false"})
	if err == nil || !strings.Contains(err.Error(), "before it was ready") {
		t.Errorf("%v", err)
	}
	nothingLeft(t)
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name string
		opts SaleOptions
		err  string // part of it; "" for none
	}{
		{"nothing said", SaleOptions{}, ""},
		{"shared engines", SaleOptions{Servers: 2, Store: "redis://h", DB: "postgres://h/d"}, ""},
		{"two servers on one file", SaleOptions{Servers: 2}, "several servers"},
		{"two servers on one SQLite", SaleOptions{Servers: 2, Store: "redis://h"}, "several servers"},
		{"mem: and kills", SaleOptions{Store: "mem:"}, "mem:"},
		{"mem: alone", SaleOptions{Store: "mem:", Faults: []string{"none"}}, ""},
		{"a fault nobody knows", SaleOptions{Faults: []string{"flood"}}, `unknown fault "flood"`},
		{"negative buyers", SaleOptions{Buyers: -1}, "buyers"},
		{"a huge stock", SaleOptions{Stock: 1 << 30}, "stock"},
		{"too many servers", SaleOptions{Servers: 99, Store: "redis://h", DB: "postgres://h/d"}, "servers"},
		{"engines of the drill's own", SaleOptions{Servers: 2, Store: "redis-server", DB: "postgres", Faults: ofServers}, ""},
		{"a store of class B", SaleOptions{Store: "valkey-server?class=b", Faults: []string{FaultKillStore}}, ""},
		{"SQLite beside a store of the drill's own", SaleOptions{Store: "redis-server", Faults: []string{FaultPauseStore}}, ""},
		{"two servers on SQLite and a store of the drill's own", SaleOptions{Servers: 2, Store: "redis-server"}, "several servers"},
		{"a store of the drill's own with a prefix", SaleOptions{Store: "redis-server?prefix=x"}, "?class=b and nothing else"},
		{"a database of the drill's own with settings", SaleOptions{DB: "postgres?x=y"}, "a database is"},
		{"flush of file:", SaleOptions{Faults: []string{FaultFlushStore}}, "flush-store needs --store redis-server"},
		{"kill of file:", SaleOptions{Store: "file:/x", Faults: []string{FaultKillStore}}, "kill-store needs --store redis-server"},
		{"pause of mem:", SaleOptions{Store: "mem:", Faults: []string{FaultPauseStore}}, "pause-store needs --store redis-server"},
		{"flush of the user's Redis", SaleOptions{Store: "redis://h", Faults: []string{"none", FaultFlushStore}}, "only engines that the drill starts itself"},
		{"kill of the user's Redis", SaleOptions{Store: "unix:/s", Faults: []string{FaultKillStore}}, "only engines that the drill starts itself"},
		{"stop of SQLite", SaleOptions{Store: "redis-server", Faults: []string{FaultStopDB}}, "stop-db needs --db postgres"},
		{"stop of a named SQLite", SaleOptions{DB: "sqlite:/x", Faults: []string{FaultStopDB}}, "stop-db needs --db postgres"},
		{"crowd of the user's PostgreSQL", SaleOptions{DB: "postgres://h/d", Faults: []string{FaultCrowdDB}}, "crowd-db needs --db postgres"},
		{"stop of the user's PostgreSQL", SaleOptions{DB: "postgres://h/d", Faults: []string{FaultStopDB}}, "only engines that the drill starts itself"},
		{"nodes of the drill's own", SaleOptions{Servers: 2, Store: "nodes", DB: "postgres", Faults: ofServers}, ""},
		{"flush of the user's nodes", SaleOptions{Store: "holdfast://a,b", Faults: []string{FaultFlushStore}}, "only engines that the drill starts itself"},
		{"the user's nodes", SaleOptions{Store: "holdfast://a,b", DB: "postgres://h/d", Servers: 2}, ""},
		{"slow syncs of file: and SQLite", SaleOptions{Faults: []string{FaultSlowDisk}}, ""},
		{"slow syncs of SQLite alone", SaleOptions{Store: "redis-server", Faults: []string{FaultSlowDisk}}, ""},
		{"slow syncs where there are none", SaleOptions{Store: "nodes", DB: "postgres", Faults: []string{FaultSlowDisk}}, "sync to a disk themselves"},
		{"a store nobody knows", SaleOptions{Store: "http://h"}, "a store is"},
		{"a database nobody knows", SaleOptions{DB: "mysql://h"}, "a database is"},
	} {
		p, err := newPlan(c.opts)
		switch {
		case c.err == "" && err != nil, c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		case err == nil && (p.hold < 4*time.Second || p.hold > 15*time.Second || p.hold%time.Second != 0 || p.Seed == 0 || p.Seed >= maxSeed):
			t.Errorf("%s: %+v", c.name, p)
		}
	}
}

func TestPlanCountsKills(t *testing.T) {
	shared := SaleOptions{Store: "redis://h", DB: "postgres://h/d", Servers: 2}
	for want, faults := range map[int][]string{2: nil, 4: {FaultKillServer, FaultKillServer}, 0: {"none"}} {
		shared.Faults = faults
		if p, err := newPlan(shared); err != nil || len(p.faults) != want {
			t.Errorf("%q: %d kills, want %d, %v", faults, len(p.faults), want, err)
		}
	}
}

func TestStoreClass(t *testing.T) {
	for raw, want := range map[string]string{
		"": "A", "file:/x": "A", "holdfast://a:1,b:2": "A", "mem:": "C", "redis://h:1/2": "C", "unix:/s?class=b": "B", "rediss://h?class=B&prefix=x": "B",
	} {
		if got, err := storeClass(raw); err != nil || got != want {
			t.Errorf("%q: %s, %v", raw, got, err)
		}
	}
}

func TestReportIsOneLine(t *testing.T) {
	r := Report{Drill: "sale", Class: "A", Seed: maxSeed - 1, Figures: SaleFigures{}}
	r.Checks, r.Verdict = judge(goodEvidence())
	line, err := json.Marshal(r)
	if err != nil || bytes.ContainsRune(line, '\n') {
		t.Fatalf("%s %v", line, err)
	}
	var back map[string]any
	if err := json.Unmarshal(line, &back); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"drill", "class", "verdict", "checks", "figures", "seed"} {
		if back[field] == nil {
			t.Errorf("no %s in %s", field, line)
		}
	}
	if back["verdict"] != Pass || back["seed"] != float64(maxSeed-1) {
		t.Errorf("%s", line)
	}
}

func TestPlaces(t *testing.T) {
	temporary(t)
	dir := t.TempDir()
	p, err := newPlan(SaleOptions{Store: "redis://u:p@h:6379/2?prefix=shop:&class=b", DB: "sqlite:" + dir + "/x.db"})
	if err != nil {
		t.Fatal(err)
	}
	pl, err := newPlace(t.Context(), p.Store, p.DB)
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(pl.dir)
	u, err := url.Parse(pl.store)
	if err != nil || u.Query().Get("prefix") != "shop:"+pl.id+":" || u.Query().Get("class") != "b" || u.Path != "/2" {
		t.Errorf("%s %v", pl.store, err)
	}
	if want := "sqlite:" + dir + "/x.db." + pl.id; pl.db != want {
		t.Errorf("%s, want %s", pl.db, want)
	}
	file := strings.TrimPrefix(pl.db, "sqlite:")
	for _, more := range []string{"", "-wal", ".lock"} {
		if err := os.WriteFile(file+more, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeSQLite(file); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(file + "*"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	for raw, want := range map[string]string{"file:/a/b": "/a/b", "file:///a/b": "/a/b", "file:a/b": "a/b"} {
		if got := localPath(raw, "file:"); got != want {
			t.Errorf("%s: %s", raw, got)
		}
	}
}
