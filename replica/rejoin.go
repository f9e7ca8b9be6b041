package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A node whose data is damaged must not come back as who it was: it has promised what it does not
// know any more. It leaves, and joins as somebody new.

// Rejoin prepares the directory of a node that does not run for joining anew: the cluster, asked
// at addr, lets the old node leave, then what is in the directory is put aside. It returns where.
// Nothing is changed when the cluster cannot be asked, or refuses.
func (a *Admin) Rejoin(ctx context.Context, addr, dir string) (aside string, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "node.json"))
	if err != nil {
		return "", fmt.Errorf("%w: %s is no node's directory: %w", ErrConfig, dir, err)
	}
	var old identity
	if err := json.Unmarshal(b, &old); err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrConfig, filepath.Join(dir, "node.json"), err)
	}
	free, err := unused(dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, free()) }()
	s, err := a.Status(ctx, addr)
	if err != nil {
		return "", err
	}
	if old.Cluster != "" && s.Cluster != old.Cluster {
		return "", fmt.Errorf("%w: %s belongs to cluster %s, and %s to %s", ErrConfig, dir, old.Cluster, addr, s.Cluster)
	}
	for _, m := range s.Nodes {
		if m.ID == old.ID {
			if err := a.Leave(ctx, addr, fmt.Sprint(m.ID)); err != nil {
				return "", err
			}
		}
	}
	return putAside(dir)
}

// unused makes sure that no node runs on dir, and that none is started before free is called.
func unused(dir string) (free func() error, err error) {
	log := filepath.Join(dir, "raft", "log")
	if _, err := os.Stat(log); errors.Is(err, os.ErrNotExist) {
		return func() error { return nil }, nil
	}
	lock, err := vfs.Default.Lock(filepath.Join(log, "LOCK"))
	if err != nil {
		return nil, fmt.Errorf("%w: a node runs on %s; end it first: %w", ErrConfig, dir, err)
	}
	return lock.Close, nil
}

// putAside moves what a node had into a directory of its own. The secret stays.
func putAside(dir string) (string, error) {
	aside := filepath.Join(dir, "damaged-"+time.Now().UTC().Format("20060102-150405.000"))
	if err := os.Mkdir(aside, 0o700); err != nil {
		return "", err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range names {
		if e.Name() == "secret" || strings.HasPrefix(e.Name(), "damaged-") {
			continue
		}
		if err := os.Rename(filepath.Join(dir, e.Name()), filepath.Join(aside, e.Name())); err != nil {
			return "", err
		}
	}
	return aside, nil
}
