package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dev/holdfast/payment/paysim"
	"github.com/holdfast-dev/holdfast/server"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/store"
)

// checkTime bounds each question to something outside.
const checkTime = 5 * time.Second

type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Say whether 'holdfast serve' would start with these flags, without starting it."`
}

type configCheckCmd struct {
	serveFlags
	Offline bool `help:"Ask nobody: check what is written, and not who answers."`
}

// Run looks at everything, also after something was wrong, and writes nothing anywhere.
func (c *configCheckCmd) Run(e *env) error {
	var keys []server.Key
	failed := 0
	for _, check := range []struct {
		name string
		look func(ctx context.Context) (string, error)
	}{
		{"config", func(context.Context) (string, error) {
			cfg, err := readConfig(c.Config)
			if err == nil {
				err = server.CheckKeys(cfg.Keys)
			}
			keys = cfg.Keys
			return fmt.Sprintf("%d API keys", len(keys)), err
		}},
		{"listen", func(context.Context) (string, error) { return c.Listen, server.CheckAddress(c.Listen, keys) }},
		{"store", c.store},
		{"db", c.database},
		{"provider", c.provider},
		{"limits", func(context.Context) (string, error) { return c.limitFlags.check(keys) }},
		{"backup-dir", func(context.Context) (string, error) {
			if c.BackupDir == "" {
				return "none: 'holdfast backup' will be refused", nil
			}
			return c.BackupDir, place(c.BackupDir, true)
		}},
	} {
		ctx, cancel := context.WithTimeout(e.ctx, checkTime)
		said, err := check.look(ctx)
		cancel()
		if err != nil {
			failed++
			fmt.Fprintf(e.out, "FAIL  %-10s  %v\n", check.name, err)
			continue
		}
		fmt.Fprintf(e.out, "ok    %-10s  %s\n", check.name, said)
	}
	if failed > 0 {
		return fmt.Errorf("config check: %d of the checks failed", failed)
	}
	return nil
}

func (c *configCheckCmd) store(ctx context.Context) (string, error) {
	if err := store.CheckURL(c.Store); err != nil {
		return "", err
	}
	switch {
	case strings.HasPrefix(c.Store, "file:"):
		dir := local(strings.TrimPrefix(c.Store, "file:"))
		return "class A, in " + dir + " (not opened: a server may have it open)", place(dir, true)
	case c.Store == "mem:":
		return "class C, gone with the process", nil
	case c.Offline:
		return "not asked", nil
	}
	s, err := store.Open(ctx, c.Store, store.Options{Timeout: checkTime})
	if err != nil {
		return "", err
	}
	said := "class " + s.Class().String() + ", answers"
	if s.Capabilities().Evicts {
		said += "; it drops keys when its memory is full: set maxmemory-policy noeviction"
	}
	return said, errors.Join(s.Ping(ctx), s.Close())
}

func (c *configCheckCmd) database(ctx context.Context) (string, error) {
	opts := sqldb.Options{MaxConns: c.DBConns, Timeout: checkTime}
	if err := sqldb.CheckURL(c.DB, opts); err != nil {
		return "", err
	}
	if file, ok := strings.CutPrefix(c.DB, "sqlite:"); ok {
		return local(file) + " (not opened: a server may have it open)", place(local(file), false)
	}
	if c.Offline {
		return "not asked", nil
	}
	db, err := sqldb.Open(ctx, c.DB, opts)
	if err != nil {
		return "", err
	}
	return string(db.Dialect()) + ", answers", db.Close()
}

func (c *configCheckCmd) provider(ctx context.Context) (string, error) {
	p, err := paysim.NewClient(c.Provider)
	if err != nil || c.Offline {
		return "not asked", err
	}
	defer p.Close()
	if _, err := p.Lookup(ctx, "holdfast-config-check"); err != nil { // a reference that nobody has
		return "", err
	}
	return c.Provider + " answers", nil
}

// place says whether there is a directory, or a file, at path or can be: what is there already of the
// way to it are directories.
func place(path string, wantDir bool) error {
	if path == "" {
		return errors.New("the path is empty")
	}
	for dir := path; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		switch {
		case err == nil && dir == path && !wantDir && info.IsDir():
			return fmt.Errorf("%s is a directory", dir)
		case err == nil && (info.IsDir() || dir == path && !wantDir):
			return writable(dir)
		case err == nil:
			return fmt.Errorf("%s is no directory", dir)
		case !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir):
			return err
		}
	}
}

// writable says whether this process may write there, without writing.
func writable(path string) error {
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("%s: not writable: %w", path, err)
	}
	return nil
}
