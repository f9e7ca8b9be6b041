package drill

import (
	"slices"
	"strings"
	"testing"
)

// A drill that cannot fail proves nothing; and three layers are three only if each of them is
// enough. These builds have protections switched off. (What a pair keeps, a single keeps.)
func TestMutants(t *testing.T) {
	t.Parallel()
	for _, m := range []struct {
		name, on string
		caught   []string // by these checks; none: it has to pass
	}{
		{"the store alone", "mutant_cond,mutant_check", nil},
		{"the condition alone", "mutant_store,mutant_check", nil},
		{"the constraint alone", "mutant_store,mutant_cond", nil},
		{"no layer", "mutant_store,mutant_cond,mutant_check", []string{"never-oversold-by-events", "never-oversold-by-rows"}},
		{"no idempotency", "mutant_idem", []string{"one-effect-per-key", "same-bytes"}},
		{"no limit and nothing asked", "mutant_limit,mutant_ask", []string{"limits-kept", "provider-agrees"}}, // by one each
		{"nothing comes back", "mutant_return", []string{"units-came-back"}},
		{"holds lost", "mutant_lost", []string{"holds-kept"}},
	} {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			bin := program(t, m.on)
			r := drillSale(t, SaleOptions{Binary: bin, Buyers: 160, Stock: 40})
			if len(m.caught) == 0 {
				mustPass(t, r)
				return
			}
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
