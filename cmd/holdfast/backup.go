package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/backup"
	"github.com/holdfast-dev/holdfast/server"
)

type backupCmd struct {
	Server  string        `help:"The server's address." default:"http://127.0.0.1:8080" env:"HOLDFAST_SERVER"`
	Key     string        `help:"API key of an operator; better in the environment than here." env:"HOLDFAST_KEY"`
	Timeout time.Duration `help:"Longest wait for it." default:"1h"`
}

// Run asks the server: its files are locked, and it alone knows when nothing is half done.
func (c *backupCmd) Run(e *env) error {
	if u, err := url.Parse(c.Server); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return errors.New("--server must be http://HOST:PORT or https://HOST")
	}
	ctx, cancel := context.WithTimeout(e.ctx, c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.Server, "/")+"/v1/backups", nil)
	if err != nil {
		return err
	}
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if resp.StatusCode != http.StatusCreated {
		var p struct{ Detail string }
		if json.Unmarshal(body, &p) != nil || p.Detail == "" {
			p.Detail = string(body)
		}
		return fmt.Errorf("backup: the server says %s: %.500s", resp.Status, p.Detail)
	}
	var made server.BackupMade
	if err := json.Unmarshal(body, &made); err != nil {
		return fmt.Errorf("backup: the server's answer: %w", err)
	}
	fmt.Fprintf(e.out, "%s\n", made.Dir)
	fmt.Fprintf(e.errs, "as of %s, %d bytes, made in %.1f s\n", made.MadeAt.Format(time.RFC3339), made.Bytes, made.Seconds)
	return nil
}

type restoreCmd struct {
	Backup string `arg:"" help:"The backup's directory." type:"path"`
	Data   string `help:"Data directory of 'holdfast up' to restore to, instead of --store and --db." type:"path" xor:"to"`
	Store  string `help:"Directory of the store: file:DIR." xor:"to"`
	DB     string `name:"db" help:"The database: sqlite:FILE."`
}

func (c *restoreCmd) Run(e *env) error {
	dir, db := filepath.Join(c.Data, "store"), filepath.Join(c.Data, "holdfast.db")
	if c.Data == "" {
		var isFile, isSQLite bool
		dir, isFile = strings.CutPrefix(c.Store, "file:")
		db, isSQLite = strings.CutPrefix(c.DB, "sqlite:")
		if !isFile || !isSQLite || dir == "" || db == "" {
			return errors.New("restore: give --data DIR, or --store file:DIR and --db sqlite:FILE")
		}
	}
	m, err := backup.Restore(e.ctx, c.Backup, local(dir), local(db))
	if err != nil {
		return err
	}
	fmt.Fprintf(e.out, "restored what was there at %s: %d files, %d bytes\n", m.MadeAt.Format(time.RFC3339), len(m.Files), m.Bytes)
	return nil
}

// local is the path of a URL that may be written with three slashes.
func local(path string) string {
	if strings.HasPrefix(path, "///") {
		return path[2:]
	}
	return path
}
