package arch

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdfast-dev/holdfast/"

// may lists, for each package of the module, every other package of the module that it
// may import directly (its tests may import more). A package that is not listed fails:
// whoever adds one decides here on which floor it stands.
var may = map[string][]string{
	// internal: what at least two packages need
	"internal/arch":   {},
	"internal/mutant": {},
	"internal/gate":   {},
	"internal/idem":   {"sqldb", "internal/mutant"},

	// floor 0
	"replica/core":      {},
	"replica/engine":    {},
	"replica/resp":      {},
	"replica/repl":      {"replica/resp"},
	"replica/sentinel":  {"replica/resp", "internal/mutant"},
	"replica/transport": {},
	"replica/gate":      {"internal/mutant"},
	"replica/consensus": {"internal/mutant"},
	"replica": {"replica/consensus", "replica/core", "replica/engine", "replica/gate", "replica/repl",
		"replica/sentinel", "replica/transport", "internal/mutant"},

	// floor 1
	"store":           {"internal/mutant"},
	"store/storetest": {"store"},
	"sqldb":           {"internal/mutant"},
	"sqldb/sqldbtest": {"sqldb"},

	// floor 2
	"lock":           {"store", "internal/mutant"},
	"lock/guard":     {"store", "sqldb", "internal/mutant"},
	"ratelimit":      {"store", "internal/mutant"},
	"ledger":         {"sqldb"},
	"payment":        {"ledger", "sqldb", "internal/gate", "internal/idem", "internal/mutant"},
	"payment/paysim": {"payment", "ledger"},
	"backup":         {"store", "sqldb", "internal/mutant"},
	"flashsale":      {"payment", "ledger", "store", "sqldb", "internal/gate", "internal/idem", "internal/mutant"},

	"ratelimit/envoy":  {"ratelimit", "internal/mutant"},
	"ratelimit/replay": {"ratelimit", "store", "internal/mutant"},

	// floor 3
	"server": {"backup", "flashsale", "payment", "ledger", "lock", "ratelimit", "store", "sqldb", "internal/idem", "internal/mutant"},
	"cmd/holdfast": {"server", "backup", "flashsale", "payment", "payment/paysim", "ledger", "lock", "store", "sqldb",
		"ratelimit", "ratelimit/envoy", "ratelimit/replay", "drill", "drill/caller", "drill/holder", "replica", "internal/mutant"},
	"examples/shop-go": {"flashsale", "payment", "payment/paysim", "store", "sqldb"},

	// outside: judges the others, so imports none of them; and the programs that it judges them by
	"drill":         {},
	"drill/journal": {},
	"drill/web":     {},
	"drill/holder":  {"lock", "lock/guard", "store", "sqldb", "drill/journal", "drill/web"},
	"drill/caller":  {"ratelimit", "store", "drill/journal", "drill/web"},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func TestDependenciesPointDown(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, listed := may[name]
		if !listed {
			t.Errorf("package %s is not in the picture: add it to docs/architecture.md and here", name)
			continue
		}
		for _, imp := range p.Imports {
			if own, ok := strings.CutPrefix(imp, module); ok && !slices.Contains(allowed, own) {
				t.Errorf("%s imports %s, which it may not", name, own)
			}
		}
	}
}

// The drill's verdict is worth something because none of what it judges runs in it.
func TestDrillImportsNothingItJudges(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath != module+"drill" {
			continue
		}
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, module) {
				t.Errorf("drill depends on %s", dep)
			}
		}
	}
}

// Whoever imports a limiter must not get database drivers with it.
func TestStoreBringsNoSQL(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath != module+"store" {
			continue
		}
		for _, dep := range p.Deps {
			for _, driver := range []string{"modernc.org/sqlite", "github.com/jackc/pgx", "database/sql"} {
				if dep == driver || strings.HasPrefix(dep, driver+"/") {
					t.Errorf("store depends on %s", dep)
				}
			}
		}
	}
}
