package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-dev/holdfast/backup"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// backupTime bounds a backup; copying takes as long as the data is large.
const backupTime = time.Hour

// BackupMade is the answer to POST /v1/backups.
type BackupMade struct {
	Dir     string    `json:"dir"` // on the server's machine
	MadeAt  time.Time `json:"made_at"`
	Bytes   int64     `json:"bytes"`
	Seconds float64   `json:"seconds"`
}

// backups makes a backup below Config.BackupDir. The server chooses its name, and makes one at a
// time.
func (s *Server) backups(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.BackupDir == "":
		writeProblem(w, problem(http.StatusNotFound, "not-found", "this server makes no backups: it was started without --backup-dir"))
		return
	case !s.mayOperate(r.Context()):
		writeProblem(w, s.backupProblem(r, errNotOperator))
		return
	case !s.copying.CompareAndSwap(false, true):
		w.Header().Set("Retry-After", "10")
		writeProblem(w, problem(http.StatusConflict, "backup-running", "a backup is being made"))
		return
	}
	defer s.copying.Store(false)
	began := time.Now()
	if err := removeUnfinished(s.BackupDir, began.Add(-backupTime)); err != nil {
		s.Logger.WarnContext(r.Context(), "backup: what an earlier one left", "error", err)
	}
	// The limits of a connection are for requests that are short.
	conn := http.NewResponseController(w)
	err := errors.Join(conn.SetReadDeadline(began.Add(backupTime)), conn.SetWriteDeadline(began.Add(backupTime)))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		s.Logger.WarnContext(r.Context(), "backup: the answer may come too late", "error", err)
	}
	dir := filepath.Join(s.BackupDir, began.UTC().Format("20060102-150405.000"))
	m, err := backup.Make(r.Context(), s.Store, s.DB, dir, s.Version)
	if err != nil {
		s.Logger.ErrorContext(r.Context(), "backup failed", "dir", dir, "error", err)
		writeProblem(w, s.backupProblem(r, err))
		return
	}
	made := BackupMade{Dir: dir, MadeAt: m.MadeAt, Bytes: m.Bytes, Seconds: time.Since(began).Seconds()}
	s.Logger.InfoContext(r.Context(), "backup made", "dir", dir, "bytes", m.Bytes, "seconds", made.Seconds, "caller", caller(r.Context()))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(made) // the client may be gone
}

// removeUnfinished removes what backups left whose server was killed, if it is older than the time
// that a backup may take: another server may be at it.
func removeUnfinished(dir string, before time.Time) error {
	left, err := filepath.Glob(filepath.Join(dir, "*"+backup.Unfinished+"*"))
	for _, path := range left {
		info, e := os.Stat(path)
		if e == nil && info.ModTime().Before(before) {
			e = os.RemoveAll(path)
		}
		err = errors.Join(err, e)
	}
	return err
}

func (s *Server) backupProblem(r *http.Request, err error) *huma.ErrorModel {
	var p *huma.ErrorModel
	switch {
	case errors.Is(err, store.ErrConfig), errors.Is(err, sqldb.ErrConfig):
		p = problem(http.StatusConflict, "no-backup", "backups are made of a file: store with SQLite; others have tools of their own")
	case asProblem(s.fail(r.Context(), err), &p):
	default:
		p = problem(http.StatusInternalServerError, "internal", "the log has it under request "+requestID(r.Context()))
	}
	return p
}
