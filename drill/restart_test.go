package drill

import (
	"bytes"
	"testing"

	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
	"github.com/holdfast-dev/holdfast/store/storetest"
)

// Rolling restarts on every pair of engines: no request fails, none is lost, none happens twice.
func TestRestart(t *testing.T) {
	bin := program(t, "")
	t.Run("embedded", func(t *testing.T) {
		temporary(t)
		r := drillRestart(t, RestartOptions{Binary: bin, Rounds: 3})
		mustPass(t, r)
		nothingLeft(t)
	})
	t.Run("shared", func(t *testing.T) {
		store, db := storetest.Redis(t).URL(), sqldbtest.Shared(t).NewDatabase(t)
		temporary(t)
		mustPass(t, drillRestart(t, RestartOptions{Binary: bin, Rounds: 3, Rate: 150, Store: store, DB: db}))
	})
}

// A server that cuts off what it has begun is noticed within a few tries: what is on its way just then is chance.
func TestRestartMutant(t *testing.T) {
	t.Parallel()
	bin := program(t, "mutant_drain")
	store, db := storetest.Redis(t).URL(), sqldbtest.Shared(t).NewDatabase(t)
	const tries = 3
	for range tries {
		r := drillRestart(t, RestartOptions{Binary: bin, Rounds: 3, Rate: 1000, Store: store, DB: db})
		if !r.Passed() && !r.Checks[0].OK {
			return
		}
		t.Logf("seed %d: not noticed: %s", r.Seed, r.Checks[0].Detail)
	}
	t.Error("it was not noticed")
}

func drillRestart(t *testing.T, opts RestartOptions) Report {
	t.Helper()
	var said bytes.Buffer
	opts.Progress = &said
	report, err := Restart(t.Context(), opts)
	return reported(t, report, err, &said)
}
