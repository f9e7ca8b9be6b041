package server_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/backup"
	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

// post is what becomes of a request for a backup.
func (r *rig) backup(key string) (status int, made server.BackupMade, kind string) {
	r.Helper()
	req, err := http.NewRequest(http.MethodPost, r.web.URL+"/v1/backups", nil)
	if err != nil {
		r.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := r.web.Client().Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		server.BackupMade
		Type string
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		r.Fatal(err)
	}
	return resp.StatusCode, answer.BackupMade, strings.TrimPrefix(answer.Type, "urn:holdfast:problem:")
}

func TestBackup(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backups")
	r := rigOn(t, "file:"+filepath.Join(t.TempDir(), "store"), sqldbtest.SQLite(t), func(c *server.Config) { c.BackupDir = dir })
	killed, running := filepath.Join(dir, "a"+backup.Unfinished+"1"), filepath.Join(dir, "b"+backup.Unfinished+"2")
	for path, age := range map[string]time.Duration{killed: 2 * time.Hour, running: time.Minute} {
		if err := errors.Join(os.MkdirAll(path, 0o700), os.Chtimes(path, time.Time{}, time.Now().Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 2 {
		status, made, kind := r.backup("")
		if status != http.StatusCreated {
			t.Fatalf("%d %s", status, kind)
		}
		m, err := backup.Read(made.Dir)
		if err != nil || m.Bytes != made.Bytes || filepath.Dir(made.Dir) != dir || m.Program != "test" {
			t.Errorf("%+v, %+v, %v", made, m, err)
		}
		if all, err := os.ReadDir(dir); err != nil || len(all) != n+2 { // with the one that may be running
			t.Errorf("%v %v", all, err)
		}
	}
	if _, err := os.Stat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed server left: %v", err)
	}
	if _, err := os.Stat(running); err != nil {
		t.Errorf("what another server may be at: %v", err)
	}
}

func TestBackupRefuses(t *testing.T) {
	if status, _, kind := newRig(t).backup(""); status != http.StatusNotFound || kind != "not-found" {
		t.Errorf("without a directory: %d %s", status, kind)
	}
	dir := filepath.Join(t.TempDir(), "backups")
	r := newRig(t, func(c *server.Config) { c.BackupDir = dir })
	if status, _, kind := r.backup(""); status != http.StatusConflict || kind != "no-backup" {
		t.Errorf("of mem: %d %s", status, kind)
	}
	user, userKey, err := server.NewKey("user")
	if err != nil {
		t.Fatal(err)
	}
	operator, operatorKey, err := server.NewKey("operator")
	if err != nil {
		t.Fatal(err)
	}
	operatorKey.Operator = true
	r = rigOn(t, "file:"+filepath.Join(t.TempDir(), "store"), sqldbtest.SQLite(t), func(c *server.Config) {
		c.BackupDir, c.Keys = dir, []server.Key{userKey, operatorKey}
	})
	for key, want := range map[string]int{"": 401, "hf_wrong": 401, user: 403, operator: 201} {
		if status, _, kind := r.backup(key); status != want {
			t.Errorf("%q: %d %s, want %d", key, status, kind, want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.partial-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q %v", left, err)
	}
}
