package drill

import (
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/store/storetest"
)

// Whatever happens to its store of three nodes, the sale keeps its guarantees, and what the store
// has said is there: that is class A.
func TestSaleOnNodes(t *testing.T) {
	bin := program(t, "")
	needed(t, "redis-server")
	temporary(t)
	r := drillSale(t, SaleOptions{
		Binary: bin, Store: "nodes", Buyers: 100, Stock: 40, Faults: []string{FaultKillStore, FaultPauseStore, FaultFlushStore},
	})
	mustPass(t, r)
	nothingLeft(t)
	if r.Class != "A" || len(r.Figures.(SaleFigures).Outages) != 3 {
		t.Errorf("%+v", r)
	}
}

// Nodes whose replies leave before a majority has what is behind them are no class A, and the
// drill says so.
func TestNodesThatAnswerTooEarly(t *testing.T) {
	bin := program(t, "mutant_gateoff")
	needed(t, "redis-server")
	temporary(t)
	r := drillSale(t, SaleOptions{
		Binary: bin, Store: "nodes", Buyers: 60, Stock: 20,
		Faults: []string{FaultKillStore, FaultKillStore, FaultKillStore, FaultKillStore},
	})
	i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.Name == "store-kept-its-word" })
	if r.Checks[i].OK {
		t.Errorf("seed %d: nothing was lost: %s", r.Seed, r.Checks[i].Detail)
	}
}

// The permits of a store on nodes are read through whichever node answers.
func TestPermitsOfNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three nodes")
	}
	n := storetest.Nodes(t)
	want := map[string]int64{"sold": never}
	fill(t, n.URL()+"?prefix=drill-1:", "sale:{drill-1}:permits", want)
	n.Kill(0)
	e := &evidence{SaleID: "drill-1"}
	if err := readPermits(t.Context(), n.URL()+"?prefix=drill-1:", e); err != nil || e.Permits["sold"] != never {
		t.Errorf("%v, %v", e.Permits, err)
	}
	if err := dropKeys(t.Context(), n.URL()+"?prefix=drill-1:"); err != nil {
		t.Error(err)
	}
	if size := n.Admin(t, "DBSIZE"); size != "0" {
		t.Errorf("%s keys are left", size)
	}
}

func TestPrefixOfNodes(t *testing.T) {
	for raw, want := range map[string]string{
		"holdfast://a:1,b:2":                    "holdfast://a:1,b:2?prefix=x%3A",
		"holdfast://u:p@a:1,b:2/3?prefix=shop:": "holdfast://u:p@a:1,b:2/3?prefix=shop%3Ax%3A",
		"unix:/s?class=b":                       "unix:/s?class=b&prefix=x%3A",
	} {
		if got, err := withPrefix(raw, "x:"); err != nil || got != want {
			t.Errorf("%s: %s, %v", raw, got, err)
		}
	}
	if _, err := oneOf("holdfast://127.0.0.1:1,127.0.0.1:2"); err == nil || !strings.Contains(err.Error(), "no node") {
		t.Errorf("nodes that are not there: %v", err)
	}
}
