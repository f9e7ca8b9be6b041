package drill

import (
	"bytes"
	"strings"
	"testing"
)

// Backups that are made under load lose nothing that was answered before, and are one moment.
func TestBackup(t *testing.T) {
	bin := program(t, "")
	temporary(t)
	var said bytes.Buffer
	r, err := Backup(t.Context(), BackupOptions{Binary: bin, Rounds: 2, Rate: 150, Progress: &said})
	mustPass(t, reported(t, r, err, &said))
	nothingLeft(t)
	if f := r.Figures.(BackupFigures); f.Backups != 2 || f.Restored[1] == 0 || f.Seconds > 40 {
		t.Errorf("%+v", f)
	}
}

// A backup whose halves are of two moments is told by its data.
func TestBackupMutant(t *testing.T) {
	t.Parallel()
	bin := program(t, "mutant_cut")
	r, err := Backup(t.Context(), BackupOptions{Binary: bin, Rounds: 1, Rate: 150})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if c.OK == (c.Name == "one-moment") {
			t.Errorf("%+v", c)
		}
	}
	if !strings.Contains(r.Checks[2].Detail, "has no permit") {
		t.Errorf("%+v", r.Checks[2])
	}
}
