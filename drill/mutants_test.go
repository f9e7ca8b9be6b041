package drill

import (
	"slices"
	"strings"
	"testing"
)

// Three layers are three only if each of them is enough. These builds have the others switched off. (What a single
// one keeps, a pair keeps.)
func TestEachLayerAlone(t *testing.T) {
	for _, m := range []struct{ name, off string }{
		{"the store", "mutant_cond,mutant_check"},
		{"the condition", "mutant_store,mutant_check"},
		{"the constraint", "mutant_store,mutant_cond"},
	} {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			mustPass(t, drillSale(t, SaleOptions{Binary: program(t, m.off), Buyers: 160, Stock: 40}))
		})
	}
}

// A drill that cannot fail proves nothing. These builds have protections switched off.
func TestMutants(t *testing.T) {
	t.Parallel()
	for _, m := range []struct {
		name, on string
		caught   []string // by these checks
	}{
		{"no layer", "mutant_store,mutant_cond,mutant_check", []string{"never-oversold-by-events", "never-oversold-by-rows"}},
		{"no idempotency", "mutant_idem", []string{"one-effect-per-key", "same-bytes"}},
		{"no limit and nothing asked", "mutant_limit,mutant_ask", []string{"limits-kept", "provider-agrees"}}, // by one each
		{"nothing comes back", "mutant_return", []string{"units-came-back"}},
		{"holds lost", "mutant_lost", []string{"holds-kept"}},
	} {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			t.Parallel() // how slow it is does not matter
			r := drillSale(t, SaleOptions{Binary: program(t, m.on), Buyers: 160, Stock: 40})
			if r.Passed() {
				t.Errorf("seed %d: it passed", r.Seed)
			}
			for _, name := range m.caught {
				i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.Name == name })
				if r.Checks[i].OK {
					t.Errorf("seed %d: %s saw nothing: %s", r.Seed, name, r.Checks[i].Detail)
				}
			}
		})
	}
}
