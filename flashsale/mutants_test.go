package flashsale

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

// Each of the three layers is enough: with any two of them off a rush oversells nothing. With
// all three off it does, and without idempotency a key gets two holds; so the rush can fail.
func TestMutants(t *testing.T) {
	if testing.Short() || len(mutant.Active()) > 0 {
		t.Skip("builds this test five times more")
	}
	for _, c := range []struct {
		tags string
		says string // why it fails; empty: it passes
	}{
		{"mutant_cond,mutant_check", ""},  // the store's permits are left
		{"mutant_store,mutant_check", ""}, // the conditional update
		{"mutant_store,mutant_cond", ""},  // the CHECK
		{"mutant_store,mutant_cond,mutant_check", "stock 20: 60 held"},
		{"mutant_idem", "two answers for one key"},
	} {
		t.Run(c.tags, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-tags", c.tags, "-run", "^TestRush$", ".").CombinedOutput()
			switch {
			case c.says == "" && err != nil:
				t.Errorf("one layer is not enough: %v\n%s", err, out)
			case c.says != "" && (err == nil || !strings.Contains(string(out), c.says)):
				t.Errorf("not noticed: %v\n%s", err, out)
			}
		})
	}
}
